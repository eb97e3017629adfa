package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

const (
	leaseTTL   = 8 * time.Second
	leaseRenew = 2 * time.Second
	// leaseMargin is how long before its end a lease that could not be
	// renewed is given up.
	leaseMargin = 2 * time.Second
)

// Lease is the right to release the jobs of a pool. It lies in the READY
// stream itself, so that the server refuses a release by one who has lost it.
type Lease struct {
	q     *Queue
	pool  string
	nonce string

	// mu keeps a renewal, which changes the sequence, from cutting a batch
	// of releases in two.
	mu  sync.Mutex
	seq uint64
	// cut is up to where each lane was cut. Replicas that lag still show
	// what stood there.
	cut map[string]uint64
}

// leaseNote is what the lease's message says.
type leaseNote struct {
	Schema int    `json:"schema"`
	Owner  string `json:"owner"`
	Nonce  string `json:"nonce"`
}

// Pool is whose jobs the lease allows to release.
func (l *Lease) Pool() string { return l.pool }

// Lead calls fn while this process holds the lease of a pool, again each time it
// gets it, until ctx ends. The context of fn ends when the lease is lost. A
// former life under the same name is relieved at once, another owner when its
// lease runs out.
func (q *Queue) Lead(ctx context.Context, pool string, fn func(context.Context, *Lease) error) error {
	for {
		l, err := q.acquire(ctx, pool)
		if err != nil {
			return err
		}
		q.log.Info("leading", "pool", pool)
		err = l.hold(ctx, fn)
		l.giveUp()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		q.log.Warn("not leading any more", "pool", pool, "error", err)
		if ended := pause(ctx, 200*time.Millisecond); ended != nil {
			return ended
		}
	}
}

// Leader is who releases the jobs of a pool; job.ErrNotFound if nobody does.
// One that died is named until its lease runs out.
func (q *Queue) Leader(ctx context.Context, pool string) (string, error) {
	note, _, err := (&Lease{q: q, pool: pool}).read(ctx)
	if err != nil {
		return "", fmt.Errorf("leader of pool %s: %w", pool, err)
	}
	return note.Owner, nil
}

// acquire waits for the lease.
func (q *Queue) acquire(ctx context.Context, pool string) (*Lease, error) {
	l := &Lease{q: q, pool: pool, nonce: uuid.NewString(), cut: map[string]uint64{}}
	for {
		got, err := l.try(ctx)
		if got {
			return l, nil
		}
		if err != nil && ctx.Err() == nil {
			q.log.Debug("acquire lease", "error", err)
		}
		if ended := pause(ctx, 500*time.Millisecond); ended != nil {
			return nil, ended
		}
	}
}

func (l *Lease) try(ctx context.Context) (bool, error) {
	now, seq, err := l.read(ctx)
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		return false, err
	}
	if err == nil && now.Owner != l.q.cfg.Name {
		return false, nil
	}
	return l.write(ctx, seq)
}

func (l *Lease) read(ctx context.Context) (leaseNote, uint64, error) {
	var note leaseNote
	m, err := l.q.lastAtLeader(ctx, readyStream(l.pool), leaseSubject(l.pool))
	if err != nil {
		return note, 0, err
	}
	if err := json.Unmarshal(m.data, &note); err != nil {
		return note, m.seq, fmt.Errorf("read lease: %w", err)
	}
	return note, m.seq, nil
}

// write takes or renews the lease that stands at seq; false if it has moved.
func (l *Lease) write(ctx context.Context, seq uint64) (bool, error) {
	body, err := json.Marshal(leaseNote{job.Schema, l.q.cfg.Name, l.nonce})
	if err != nil {
		return false, err
	}
	msg := l.q.message(leaseSubject(l.pool))
	msg.Data = body
	msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	msg.Header.Set(jetstream.MsgTTLHeader, leaseTTL.String())
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(seq, 10))
	next, err := l.q.publishOnce(ctx, msg, time.Second)
	if err == nil {
		l.seq = next
		return true, nil
	}
	if !isCode(err, codeWrongLastSequence) {
		return false, err
	}
	note, seq, err := l.read(ctx)
	if err == nil && note.Nonce == l.nonce {
		l.seq = seq // our own write whose answer was lost
		return true, nil
	}
	return false, nil
}

// hold runs fn and renews the lease until one of them ends.
func (l *Lease) hold(ctx context.Context, fn func(context.Context, *Lease) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var renewing sync.WaitGroup
	renewing.Go(func() { l.renew(ctx, cancel) })
	err := fn(ctx, l)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	renewing.Wait()
	return err
}

var errLeaseLost = errors.New("lease is lost")

func (l *Lease) renew(ctx context.Context, lose context.CancelCauseFunc) {
	good := time.Now()
	for wait := leaseRenew; ; {
		if pause(ctx, wait) != nil {
			return
		}
		sent := time.Now()
		l.mu.Lock()
		ok, err := l.write(ctx, l.seq)
		l.mu.Unlock()
		switch {
		case ok:
			good, wait = sent, leaseRenew
		case err == nil, time.Since(good) > leaseTTL-leaseMargin:
			lose(errLeaseLost)
			return
		default:
			wait = 200 * time.Millisecond
		}
	}
}

// giveUp lets another take the lease at once. Deleting by sequence cannot hit
// anybody else's.
func (l *Lease) giveUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stream, err := l.q.js.Stream(ctx, readyStream(l.pool))
	if err == nil {
		err = stream.DeleteMsg(ctx, l.seq)
	}
	if err != nil {
		l.q.log.Debug("give up lease", "error", err)
	}
}

// publish stores messages under the fence: none of them once the lease is
// somebody else's. They need a Msg-Id, since some may be stored before others
// fail. Nil messages are passed over.
func (l *Lease) publish(ctx context.Context, msgs []*nats.Msg) []published {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.q.layout.replicated() {
		return l.publishBatches(ctx, msgs)
	}
	for _, msg := range msgs {
		if msg != nil {
			l.fence(msg)
		}
	}
	return l.q.publishAll(ctx, msgs)
}

// publishBatches is publish on replicated streams. These let only one write at
// a time depend on one subject's sequence, so a whole batch goes behind one
// fence.
func (l *Lease) publishBatches(ctx context.Context, msgs []*nats.Msg) []published {
	out := make([]published, len(msgs))
	var batch []int
	send := func() {
		err := l.publishBatch(ctx, msgs, batch)
		for _, i := range batch {
			out[i].err = err
		}
		batch = batch[:0]
	}
	for i, msg := range msgs {
		if msg == nil {
			continue
		}
		if batch = append(batch, i); len(batch) == atomicMost {
			send()
		}
	}
	if len(batch) > 0 {
		send()
	}
	return out
}

// publishBatch stores the messages with the given indices. When some of them
// are known already, which tells of a release whose answer was lost or whose
// lane was not cut, it goes on one by one.
func (l *Lease) publishBatch(ctx context.Context, msgs []*nats.Msg, indices []int) error {
	batch := make([]*nats.Msg, len(indices))
	for i, at := range indices {
		batch[i] = msgs[at]
	}
	l.fence(batch[0])
	_, err := l.q.publishAtomic(ctx, batch, apiTimeout)
	if !isCode(err, codeBatchRepeats) {
		if err != nil && !transient(err) {
			err = l.q.refused(batch[0], err)
		}
		return err
	}
	for _, msg := range batch {
		l.fence(msg)
		if _, err := l.q.publishOnce(ctx, msg, apiTimeout); err != nil {
			if !transient(err) && !inFlight(err) {
				err = l.q.refused(msg, err)
			}
			return err
		}
	}
	return nil
}

// noteCut remembers that the hints of a lane are gone up to a sequence.
func (l *Lease) noteCut(lane Lane, seq uint64) {
	const lanes = 10_000 // what is forgotten is only asked for once more
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.cut) >= lanes {
		clear(l.cut)
	}
	l.cut[lane.Subject] = seq
}

// fence has a message refused if the lease is no longer this one. The caller
// holds l.mu until the answer is there.
func (l *Lease) fence(msg *nats.Msg) {
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(l.seq, 10))
	msg.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, leaseSubject(l.pool))
}
