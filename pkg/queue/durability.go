package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Profile says what a loss of power may take. A crash of processes loses
// nothing in any of them. It is one setting for the server, how often it
// syncs, and the streams, and is recorded when they are made.
type Profile string

// The profiles.
const (
	// Fast syncs every two minutes: development, CI.
	Fast Profile = "fast"
	// Balanced syncs every second. What was accepted or changed in the last
	// second may be lost or run again.
	Balanced Profile = "balanced"
	// Strict syncs records, settings and objects before it acknowledges
	// them. Hints are written late: the reconcile pass makes them anew.
	Strict Profile = "strict"
	// Cluster stores everything on three servers that sync before they
	// acknowledge, so that not even all of them losing power takes anything.
	Cluster Profile = "cluster"
)

// Valid reports whether p is one of the profiles.
func (p Profile) Valid() bool {
	return p == Fast || p == Balanced || p == Strict || p == Cluster
}

// keyDurability is where the profile stands in the metadata of RES.
const keyDurability = "durability"

// wanted is the layout that is asked for. What is not said stays empty, except
// the number of shards.
func (q *Queue) wanted() layout {
	l := layout{shards: defaultShards, replicas: q.cfg.Replicas, durability: q.cfg.Durability}
	if l.durability == "" && q.cfg.Server != nil {
		l.durability = q.cfg.Server.profile
	}
	if l.durability == Cluster && l.replicas == 0 {
		l.replicas = 3
	}
	return l
}

// filled is l with defaults for what is not said.
func (l layout) filled() layout {
	l.replicas = max(l.replicas, 1)
	if l.durability == "" {
		l.durability = Balanced
		if l.replicated() {
			l.durability = Cluster
		}
	}
	return l
}

func (l layout) check() error {
	switch {
	case !l.durability.Valid():
		return fmt.Errorf("durability %q is not known; use fast, balanced, strict or cluster", l.durability)
	case l.durability == Strict && l.replicated():
		return fmt.Errorf("durability strict is that of one server; use cluster for %d replicas", l.replicas)
	case l.durability == Cluster && !l.replicated():
		return errors.New("durability cluster needs 3 or 5 replicas")
	}
	return nil
}

// installedAs is the layout by what a stream of records says of it.
func (q *Queue) installedAs(ctx context.Context, records jetstream.StreamConfig, shards int) (layout, error) {
	l := layout{shards: shards, replicas: records.Replicas, durability: Profile(records.Metadata[keyDurability])}
	if l.durability != "" {
		return l.filled(), nil
	}
	// Before the profile was recorded only strict could be told by the
	// streams; fast and balanced differ in the server alone.
	hints, err := q.js.Stream(ctx, intakeStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
	case err != nil:
		return l, fmt.Errorf("stream %s: %w", intakeStream, err)
	case hints.CachedInfo().Config.PersistMode == jetstream.AsyncPersistMode:
		l.durability = Strict
	}
	if l.durability == "" && q.wanted().durability == Fast {
		l.durability = Fast
	}
	return l.filled(), nil
}

// agree settles what is asked for with what is installed.
func (q *Queue) agree(ctx context.Context, have, want layout) error {
	differs := ""
	switch {
	case want.durability != "" && want.durability != have.durability:
		differs = fmt.Sprintf("durability %s, this start asks for %s", have.durability, want.durability)
	case want.replicas != 0 && want.replicas != have.replicas:
		differs = fmt.Sprintf("replicas %d, this start asks for %d", have.replicas, want.replicas)
	default:
		q.layout = have
		return nil
	}
	if !q.cfg.ChangeDurability {
		return fmt.Errorf("the queue was installed with %s: ask for what is installed, or have it changed (--change-durability) while no worker runs", differs)
	}
	if want.durability == "" {
		want.durability = have.durability
	}
	want.shards = have.shards
	q.layout = want.filled()
	if err := q.layout.check(); err != nil {
		return err
	}
	q.log.Warn("the durability of the queue is being changed", "from", have.durability, "to", q.layout.durability)
	return q.changeDurability(ctx, have)
}

// changeDurability makes what is installed what q.layout says. It may be cut
// short and run again.
func (q *Queue) changeDurability(ctx context.Context, have layout) error {
	names, err := q.layoutStreams(ctx)
	if err != nil {
		return fmt.Errorf("change durability: %w", err)
	}
	for _, name := range names {
		s, err := q.js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("change durability: stream %s: %w", name, err)
		}
		config := s.CachedInfo().Config
		if late(name) && (have.durability == Strict) != (q.layout.durability == Strict) {
			// How a stream is written stands fixed. It is made anew, and its
			// hints by the reconcile pass.
			err = q.js.DeleteStream(ctx, name)
		} else if config.Replicas != q.layout.replicas {
			config.Replicas = q.layout.replicas
			_, err = q.js.UpdateStream(ctx, config)
		}
		if err != nil {
			return fmt.Errorf("change durability: stream %s: %w", name, err)
		}
	}
	return nil // the streams of records are told as all is ensured
}

// layoutStreams names all streams there should be, buckets included, and those
// of the pools there are.
func (q *Queue) layoutStreams(ctx context.Context) ([]string, error) {
	var names []string
	all := q.js.StreamNames(ctx)
	for name := range all.Name() {
		if strings.HasPrefix(name, readyStream("")) {
			names = append(names, name)
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	for _, s := range q.streams() {
		names = append(names, s.Name)
	}
	for _, kv := range q.keyBuckets() {
		names = append(names, "KV_"+kv.Bucket)
	}
	for _, o := range q.objectBuckets() {
		names = append(names, "OBJ_"+o.Bucket)
	}
	return names, nil
}

// late reports whether a stream has hints only, which strict writes late.
func late(stream string) bool {
	return stream == intakeStream || stream == logStream || stream == workerStream || strings.HasPrefix(stream, readyStream(""))
}

// hintPersistence lets hints be written late where records are synced at
// once: what is lost of them comes back by the reconcile pass.
func (q *Queue) hintPersistence() jetstream.PersistModeType {
	if q.layout.durability == Strict {
		return jetstream.AsyncPersistMode
	}
	return jetstream.DefaultPersistMode
}
