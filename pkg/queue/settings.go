package queue

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Settings are keys of CFG, each with its schema, each changed by
// compare-and-set on the revision that was read. Schedulers watch them; there
// are few schedulers, and nobody else does.

const configStream = "KV_" + configBucket

func configSubject(key string) string { return "$KV." + configBucket + "." + key }

// Tenant is what is set for a tenant, and at which revision; job.ErrNotFound.
func (q *Queue) Tenant(ctx context.Context, id string) (job.Tenant, uint64, error) {
	t := job.Tenant{ID: id}
	if checkToken(id) != nil {
		return t, 0, job.ErrNotFound // none can have this name
	}
	revision, err := q.readSetting(ctx, tenantKey(id), &t)
	if err != nil {
		return t, revision, fmt.Errorf("tenant %s: %w", id, err)
	}
	return t, revision, nil
}

// SetTenant stores the settings of a tenant in place of those of a revision,
// 0 if there were none; ErrChanged if they have changed since.
func (q *Queue) SetTenant(ctx context.Context, t job.Tenant, revision uint64) (job.Tenant, uint64, error) {
	if err := checkToken(t.ID); err != nil {
		return t, 0, fmt.Errorf("set tenant: %w", err)
	}
	t.Schema, t.UpdatedAt = job.Schema, time.Now().UTC()
	revision, err := q.writeSetting(ctx, tenantKey(t.ID), t, revision)
	if err != nil {
		return t, 0, fmt.Errorf("set tenant %s: %w", t.ID, err)
	}
	return t, revision, nil
}

// RemoveTenant forgets the settings of a tenant, those of its queues, and its
// schedules. Its jobs stay. ErrChanged if its settings have changed since
// revision.
func (q *Queue) RemoveTenant(ctx context.Context, id string, revision uint64) error {
	if err := q.removeSetting(ctx, tenantKey(id), revision); err != nil {
		return fmt.Errorf("remove tenant %s: %w", id, err)
	}
	for _, keys := range []string{queueKey(id, ">"), cronKey(id, ">")} {
		err := q.eachSetting(ctx, keys, func(key string, m message) error {
			err := q.removeSetting(ctx, key, m.seq)
			for errors.Is(err, ErrChanged) { // a tick came between
				if m, err = q.lastAtLeader(ctx, configStream, configSubject(key)); err == nil {
					err = q.removeSetting(ctx, key, m.seq)
				}
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("remove %s of tenant %s: %w", keys, id, err)
		}
	}
	return nil
}

// QueueOf is what is set for a queue, and at which revision; job.ErrNotFound.
func (q *Queue) QueueOf(ctx context.Context, tenant, name string) (job.Queue, uint64, error) {
	s := job.Queue{Tenant: tenant, Name: name}
	if checkToken(tenant) != nil || checkToken(name) != nil {
		return s, 0, job.ErrNotFound
	}
	revision, err := q.readSetting(ctx, queueKey(tenant, name), &s)
	if err != nil {
		return s, revision, fmt.Errorf("queue %s of tenant %s: %w", name, tenant, err)
	}
	return s, revision, nil
}

// SetQueue is SetTenant for a queue.
func (q *Queue) SetQueue(ctx context.Context, s job.Queue, revision uint64) (job.Queue, uint64, error) {
	for _, name := range []string{s.Tenant, s.Name} {
		if err := checkToken(name); err != nil {
			return s, 0, fmt.Errorf("set queue: %w", err)
		}
	}
	s.Schema, s.UpdatedAt = job.Schema, time.Now().UTC()
	revision, err := q.writeSetting(ctx, queueKey(s.Tenant, s.Name), s, revision)
	if err != nil {
		return s, 0, fmt.Errorf("set queue %s of tenant %s: %w", s.Name, s.Tenant, err)
	}
	return s, revision, nil
}

// RemoveQueue forgets the settings of a queue. Its jobs stay.
func (q *Queue) RemoveQueue(ctx context.Context, tenant, name string, revision uint64) error {
	if err := q.removeSetting(ctx, queueKey(tenant, name), revision); err != nil {
		return fmt.Errorf("remove settings of queue %s of tenant %s: %w", name, tenant, err)
	}
	return nil
}

// SettingChange is one change of one setting, as WatchSettings sees it. One
// of Restoring, Tenant, Queue, Schedule, Preference and Listed is set.
type SettingChange struct {
	Tenant   *job.Tenant
	Queue    *job.Queue
	Schedule *job.Schedule
	// Preference is that of an image.
	Preference *job.Preference
	// Restoring says that a backup is being restored, and Removed that this
	// is over.
	Restoring *Restoring
	// Removed: the settings are gone; only names are set.
	Removed bool
	// Revision orders all changes.
	Revision uint64
	// Listed: all that there was at first has been told.
	Listed bool
}

// WatchSettings calls fn for all settings of tenants, queues, schedules and
// images and then for every change, one call at a time, until ctx ends. It
// survives reconnects.
func (q *Queue) WatchSettings(ctx context.Context, fn func(SettingChange)) error {
	return q.tail(ctx, tail{
		stream: configStream, filter: configSubject(">"),
		each: func(m message) error {
			c, ok, err := settingChange(m)
			if err != nil {
				// Written by a later release: what was known goes on to hold.
				q.log.Error("unreadable setting", "subject", m.subject, "error", err)
			} else if ok {
				fn(c)
			}
			return nil
		},
		caughtUp: func() error { fn(SettingChange{Listed: true}); return nil },
	})
}

func settingChange(m message) (c SettingChange, ok bool, err error) {
	c = SettingChange{Revision: m.seq, Removed: m.header.Get(headerOperation) != ""}
	var into any
	switch parts := strings.Split(strings.TrimPrefix(m.subject, configSubject("")), "."); {
	case len(parts) == 1 && parts[0] == restoreKey:
		c.Restoring = &Restoring{}
		into = c.Restoring
	case len(parts) == 2 && parts[0] == "tenant":
		c.Tenant = &job.Tenant{ID: parts[1]}
		into = c.Tenant
	case len(parts) == 3 && parts[0] == "queue":
		c.Queue = &job.Queue{Tenant: parts[1], Name: parts[2]}
		into = c.Queue
	case len(parts) == 3 && parts[0] == "cron":
		c.Schedule = &job.Schedule{Tenant: parts[1], Name: parts[2]}
		into = c.Schedule
	case len(parts) == 2 && parts[0] == "prefer":
		name, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return c, false, fmt.Errorf("preference of image %q: %w", parts[1], err)
		}
		c.Preference = &job.Preference{Image: string(name)}
		into = c.Preference
	default:
		return c, false, nil // somebody else's, such as the name of an image
	}
	if !c.Removed {
		err = decodeSetting(m, into)
	}
	return c, err == nil, err
}

func decodeSetting(m message, into any) error {
	var v struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(m.data, &v); err != nil {
		return fmt.Errorf("decode setting %s: %w", m.subject, err)
	}
	if v.Schema < 1 || v.Schema > job.Schema {
		return fmt.Errorf("setting %s: schema %d is above %d: written by a later release", m.subject, v.Schema, job.Schema)
	}
	if err := json.Unmarshal(m.data, into); err != nil {
		return fmt.Errorf("decode setting %s: %w", m.subject, err)
	}
	return nil
}

// readSetting reads a setting at the leader; job.ErrNotFound with the
// revision of what stands in its place, 0 if nothing does.
func (q *Queue) readSetting(ctx context.Context, key string, into any) (revision uint64, err error) {
	m, err := q.lastAtLeader(ctx, configStream, configSubject(key))
	switch {
	case err != nil:
		return 0, err
	case m.header.Get(headerOperation) != "":
		return m.seq, job.ErrNotFound
	}
	return m.seq, decodeSetting(m, into)
}

// writeSetting stores a setting in place of that of a revision, 0 for none.
func (q *Queue) writeSetting(ctx context.Context, key string, value any, revision uint64) (uint64, error) {
	return q.writeSettingAs(ctx, q.message(configSubject(key)), value, revision)
}

// writeSettingAs is writeSetting by a message that may have headers.
func (q *Queue) writeSettingAs(ctx context.Context, msg *nats.Msg, value any, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	body, err := json.Marshal(value)
	if err != nil {
		return 0, err
	}
	if revision == 0 { // one that was removed has left a trace
		m, err := q.lastAtLeader(ctx, configStream, msg.Subject)
		switch {
		case err == nil && m.header.Get(headerOperation) == "":
			return 0, ErrChanged
		case err == nil:
			revision = m.seq
		case !errors.Is(err, job.ErrNotFound):
			return 0, err
		}
	}
	msg.Data = body
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	seq, err := q.publish(ctx, msg)
	if !errors.Is(err, errMoved) {
		return seq, err
	}
	m, err := q.lastAtLeader(ctx, configStream, msg.Subject)
	if err == nil && m.seq > revision && bytes.Equal(m.data, body) {
		return m.seq, nil // our own write whose answer was lost
	}
	return 0, cmp.Or(err, ErrChanged)
}

// removeSetting removes the setting that was read at a revision.
func (q *Queue) removeSetting(ctx context.Context, key string, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	msg := q.message(configSubject(key))
	msg.Header.Set(headerOperation, purged)
	msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	_, err := q.publish(ctx, msg)
	if !errors.Is(err, errMoved) {
		return err
	}
	m, err := q.lastAtLeader(ctx, configStream, configSubject(key))
	if err == nil && m.header.Get(headerOperation) != "" {
		return nil
	}
	return cmp.Or(err, ErrChanged)
}

// eachSetting calls fn for the settings whose keys match, in the order of
// their keys.
func (q *Queue) eachSetting(ctx context.Context, keys string, fn func(key string, m message) error) error {
	latest := map[string]message{}
	if err := q.scan(ctx, configStream, configSubject(keys), func(m message) { latest[m.subject] = m }); err != nil {
		return fmt.Errorf("list settings: %w", err)
	}
	subjects := make([]string, 0, len(latest))
	for s, m := range latest {
		if m.header.Get(headerOperation) == "" {
			subjects = append(subjects, s)
		}
	}
	slices.Sort(subjects)
	for _, s := range subjects {
		if err := fn(strings.TrimPrefix(s, configSubject("")), latest[s]); err != nil {
			return err
		}
	}
	return nil
}
