package queue

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// GiveHint gives a job's hint whatever its state.
func GiveHint(q *Queue, ctx context.Context, tenant, id, reason string) error {
	s, err := q.read(ctx, tenant, id)
	if err != nil {
		return err
	}
	return q.giveHint(ctx, s.summary(), reason)
}

// ForceRelease moves all hints to READY without asking their records, as if
// the record had changed a moment later.
func ForceRelease(q *Queue, ctx context.Context, l *Lease) error {
	lanes, err := q.Lanes(ctx, l.pool, EveryClass)
	if err != nil {
		return err
	}
	for _, lane := range lanes {
		heads, _, err := q.batch(ctx, intakeStream, batchRequest{Seq: 1, NextFor: lane.Subject, Batch: 64})
		if err != nil {
			return err
		}
		for _, h := range heads {
			s := Summary{ID: h.header.Get(headerJob), Tenant: h.header.Get(headerTenant), Queue: lane.Queue}
			msg := q.released(known{Summary: s}, h, h.at)
			l.mu.Lock()
			l.fence(msg)
			_, err := q.publish(ctx, msg)
			l.mu.Unlock()
			if err != nil {
				return err
			}
		}
		if err := q.cutLane(ctx, lane, heads[len(heads)-1].seq); err != nil {
			return err
		}
	}
	return nil
}

// ReleaseUncut publishes the heads of all lanes and leaves them there, as a
// leader does that dies in between.
func ReleaseUncut(q *Queue, ctx context.Context, l *Lease) error {
	lanes, err := q.Lanes(ctx, l.pool, EveryClass)
	if err != nil {
		return err
	}
	for _, lane := range lanes {
		heads, err := q.heads(ctx, l, lane, 64)
		if err != nil {
			return err
		}
		records, err := q.recordsOf(ctx, heads)
		if err != nil {
			return err
		}
		msgs := make([]*nats.Msg, len(heads))
		for i, h := range heads {
			msgs[i] = q.released(records[h.header.Get(headerJob)], h, h.at)
		}
		for _, p := range l.publish(ctx, msgs) {
			if p.err != nil {
				return p.err
			}
		}
	}
	return nil
}

// LifeOf tells the lives of a worker apart; HeldBy is what it holds.
func LifeOf(r *Registration) string { return r.life }

func HeldBy(r *Registration) []Held {
	var all []Held
	for _, h := range r.holdings() {
		all = append(all, h.Held)
	}
	return all
}

// ObjectBytes is what a bucket takes.
func ObjectBytes(q *Queue, ctx context.Context, b Bucket) uint64 {
	info, err := q.streamInfo(ctx, "OBJ_"+string(b), "")
	if err != nil {
		panic(err)
	}
	return info.State.Bytes
}

// LoseHints empties INTAKE, as a crash of the machine might.
func LoseHints(q *Queue, ctx context.Context) error {
	s, err := q.js.Stream(ctx, intakeStream)
	if err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject("in.>"))
}

// LoseReady removes what was released and not delivered.
func LoseReady(q *Queue, ctx context.Context) error {
	s, err := q.js.Stream(ctx, readyStream(job.DefaultPool))
	if err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject("rdy.>"))
}

// CommitUnlisted makes the claimed job dead, and dies before it lists it.
func CommitUnlisted(q *Queue, ctx context.Context, c *Claim, v job.Verdict) error {
	s := stored{Record: c.Record, Life: c.life}
	s.State = job.Dead
	s.end(time.Now().UTC(), v)
	return q.settle(ctx, c, s, job.EventFinish)
}

// Unlist has a worker say nothing more of itself, so that its key does not
// list what it claims from now on.
func Unlist(r *Registration) {
	r.cancel()
	r.loops.Wait()
}

// StreamNames lists the layout.
func StreamNames(q *Queue) []string {
	var names []string
	for _, s := range append(q.streams(), q.poolStream(job.DefaultPool)) {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// LoseTimers empties DELAY.
func LoseTimers(q *Queue, ctx context.Context) error {
	s, err := q.js.Stream(ctx, delayStream)
	if err != nil {
		return err
	}
	return s.Purge(ctx)
}

// AgeLayout makes the layout look like that of another release.
func AgeLayout(q *Queue, ctx context.Context) error {
	s, err := q.js.Stream(ctx, intakeStream)
	if err != nil {
		return err
	}
	config := s.CachedInfo().Config
	config.Metadata["layout_version"] = "0"
	_, err = q.js.UpdateStream(ctx, config)
	return err
}

// MaxBytes is the size of a stream.
func MaxBytes(q *Queue, ctx context.Context, stream string) int64 {
	info, err := q.streamInfo(ctx, stream, "")
	if err != nil {
		panic(err)
	}
	return info.Config.MaxBytes
}

// CountTimers counts the timers that stand in DELAY.
func CountTimers(q *Queue, ctx context.Context) (int, error) {
	names, _, err := q.subjects(ctx, delayStream, "sched.>", 0)
	return len(names), err
}

// OfLaterRelease makes a record look like one that a later release wrote.
func OfLaterRelease(q *Queue, ctx context.Context, tenant, id string) error {
	subject := recordSubject(q.shard(id), tenant, id)
	m, err := q.lastAtLeader(ctx, recordStream(q.shard(id)), subject)
	if err != nil {
		return err
	}
	msg := q.message(subject)
	msg.Data = m.data
	msg.Header.Set(headerSchema, strconv.Itoa(job.Schema+1))
	msg.Header.Set(headerState, m.header.Get(headerState))
	msg.Header.Set(headerSummary, m.header.Get(headerSummary))
	_, err = q.publish(ctx, msg)
	return err
}

// RawRecord is the stored bytes of a record.
func RawRecord(q *Queue, ctx context.Context, tenant, id string) ([]byte, error) {
	m, err := q.lastAtLeader(ctx, recordStream(q.shard(id)), recordSubject(q.shard(id), tenant, id))
	return m.data, err
}

// CheckServer is what open makes of a server's version: whether it asks again,
// and what is wrong.
func CheckServer(version string) (again bool, err error) {
	err = checkServer(version)
	return err != nil && transient(err), err
}

// Depose has another scheduler take the lease although l has not run out.
func Depose(q *Queue, ctx context.Context, l *Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	other := &Lease{q: q, pool: l.pool, nonce: "of another", cut: map[string]uint64{}}
	ok, err := other.write(ctx, l.seq)
	if err == nil && !ok {
		err = errMoved
	}
	return err
}

// SpillRecord does the first write of Spill and no more, as a leader does
// that dies after it.
func SpillRecord(q *Queue, ctx context.Context, tenant, id string, to job.Place) error {
	s, err := q.readAtLeader(ctx, tenant, id)
	if err != nil {
		return err
	}
	s.Pool, s.Class, s.Spill = to.Pool, to.Class, nil
	_, err = q.put(ctx, s)
	return err
}
