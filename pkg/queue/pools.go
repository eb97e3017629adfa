package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// A pool is a setting, a stream of released hints with the lease of the one
// who releases them, and a consumer per class, in whose line slots wait.

func checkPool(p job.Pool) error {
	if err := checkToken(p.Name); err != nil {
		return err
	}
	if len(p.Classes) == 0 || len(p.Classes) > job.MaxClasses {
		return fmt.Errorf("pool %s: 1 to %d classes, not %d", p.Name, job.MaxClasses, len(p.Classes))
	}
	for i, c := range p.Classes {
		if err := checkToken(c.Name); err != nil {
			return fmt.Errorf("pool %s: class %w", p.Name, err)
		}
		if first := slices.IndexFunc(p.Classes, func(o job.Class) bool { return o.Name == c.Name }); first != i {
			return fmt.Errorf("pool %s: class %s is there twice", p.Name, c.Name)
		}
	}
	return nil
}

// Pools lists all pools by name.
func (q *Queue) Pools(ctx context.Context) ([]job.Pool, error) {
	pools := poolSet{}
	err := q.eachSetting(ctx, poolKey(">"), func(_ string, m message) error { return pools.fold(m) })
	if err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	return pools.list(), nil
}

// Pool is a pool, and the revision of its setting, 0 if nothing is set;
// job.ErrNotFound.
func (q *Queue) Pool(ctx context.Context, name string) (job.Pool, uint64, error) {
	p := job.Pool{}
	if checkToken(name) != nil {
		return p, 0, fmt.Errorf("pool %q: %w", name, job.ErrNotFound)
	}
	revision, err := q.readSetting(ctx, poolKey(name), &p)
	switch {
	case errors.Is(err, job.ErrNotFound) && name == job.DefaultPool:
		return job.NewPool(name), 0, nil
	case err != nil:
		return p, 0, fmt.Errorf("pool %s: %w", name, err)
	}
	p.Name = name
	return p, revision, nil
}

// SetPool makes a pool, or changes the one that was read at a revision;
// ErrChanged if it has changed since. Its stream and its lines are made before
// it is known; those of classes that it no longer has stay as they are.
func (q *Queue) SetPool(ctx context.Context, p job.Pool, revision uint64) (job.Pool, uint64, error) {
	if err := checkPool(p); err != nil {
		return p, 0, fmt.Errorf("set pool: %w", err)
	}
	p.Schema, p.UpdatedAt = job.Schema, time.Now().UTC()
	if err := q.ensurePool(ctx, p); err != nil {
		return p, 0, fmt.Errorf("set pool %s: %w", p.Name, err)
	}
	if err := q.room.sync(); err != nil {
		return p, 0, fmt.Errorf("set pool %s: %w", p.Name, err)
	}
	revision, err := q.writeSetting(ctx, poolKey(p.Name), p, revision)
	if err != nil {
		return p, 0, fmt.Errorf("set pool %s: %w", p.Name, err)
	}
	return p, revision, nil
}

// RemovePool forgets a pool and its stream; of the default one only what is
// set. The caller has seen that nothing waits or runs in it: what came in
// between is in no pool, and goes on when the pool is set again.
func (q *Queue) RemovePool(ctx context.Context, name string, revision uint64) error {
	err := q.removeSetting(ctx, poolKey(name), revision)
	if err == nil && name != job.DefaultPool {
		err = q.js.DeleteStream(ctx, readyStream(name))
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove pool %s: %w", name, err)
	}
	return nil
}

// poolSet is pools by name, as their keys say.
type poolSet map[string]job.Pool

// fold takes in what a key says.
func (s poolSet) fold(m message) error {
	name := strings.TrimPrefix(m.subject, configSubject(poolKey("")))
	if gone(m.header) || m.header.Get(headerOperation) != "" {
		delete(s, name)
		return nil
	}
	var p job.Pool
	if err := decodeSetting(m, &p); err != nil {
		return err
	}
	p.Name = name
	s[name] = p
	return nil
}

func (s poolSet) list() []job.Pool {
	all := maps.Clone(s)
	if _, there := all[job.DefaultPool]; !there {
		all[job.DefaultPool] = job.NewPool(job.DefaultPool)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b job.Pool) int { return strings.Compare(a.Name, b.Name) })
}

// WatchPools calls fn with all pools there are, and again after every change,
// one call at a time, until ctx ends.
func (q *Queue) WatchPools(ctx context.Context, fn func([]job.Pool)) error {
	pools, listed := poolSet{}, false
	tell := func() {
		if listed {
			fn(pools.list())
		}
	}
	return q.tail(ctx, tail{
		stream: configStream, filter: configSubject(poolKey(">")),
		each: func(m message) error {
			if err := pools.fold(m); err != nil {
				q.log.Error("unreadable pool", "error", err)
				return nil // what was known goes on to hold
			}
			tell()
			return nil
		},
		caughtUp: func() error {
			listed = true
			tell()
			return nil
		},
	})
}

// ensurePool makes the stream of a pool and the lines of its classes, and
// stops or starts them as it says.
func (q *Queue) ensurePool(ctx context.Context, p job.Pool) error {
	if err := q.ensureStream(ctx, q.poolStream(p.Name)); err != nil {
		return fmt.Errorf("stream %s: %w", readyStream(p.Name), err)
	}
	for _, class := range p.Classes {
		c := poolConsumer(p.Name, class.Name)
		made, err := q.js.CreateOrUpdateConsumer(ctx, c.stream, c.config)
		if err == nil && made.CachedInfo().Paused != p.Paused {
			err = q.pauseConsumer(ctx, c, p.Paused)
		}
		if err != nil {
			return fmt.Errorf("consumer %s of %s: %w", c.config.Durable, c.stream, err)
		}
	}
	return nil
}

// pauseTime is longer than any pause. The setting is what counts.
const pauseTime = 100 * 365 * 24 * time.Hour

// pauseConsumer has a line served no more, or again: what is released already
// must wait too.
func (q *Queue) pauseConsumer(ctx context.Context, c consumerOf, paused bool) error {
	if !paused {
		_, err := q.js.ResumeConsumer(ctx, c.stream, c.config.Durable)
		return err
	}
	_, err := q.js.PauseConsumer(ctx, c.stream, c.config.Durable, time.Now().Add(pauseTime))
	return err
}

// NoClassError says that there is no such pool, or that it has no such class.
type NoClassError struct{ Pool, Class string }

func (e *NoClassError) Error() string {
	return fmt.Sprintf("there is no pool %q with a class %q; `sandlot pools ls` lists what there is, `sandlot pools set` makes it", e.Pool, e.Class)
}

// Is makes a NoClassError a job.ErrNotFound.
func (e *NoClassError) Is(target error) bool { return target == job.ErrNotFound }

// checkClass makes sure that slots can wait for jobs of the class. A worker
// may ask this much, but not make what is missing.
func (q *Queue) checkClass(ctx context.Context, pool, class string) error {
	if checkToken(pool) != nil || checkToken(class) != nil {
		return &NoClassError{pool, class}
	}
	_, err := q.readyInfo(ctx, pool, class)
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamNotFound || api.ErrorCode == jetstream.JSErrCodeConsumerNotFound) {
		return &NoClassError{pool, class}
	}
	return err
}
