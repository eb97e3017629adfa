package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

const (
	beat = 3 * time.Second
	// silence is how long the key may go without renewal before the worker
	// must stop its sandboxes. Shorter than workerTTL, after which its jobs
	// may run elsewhere.
	silence = 8 * time.Second
	// listPause bounds how often changes of what is held are written.
	listPause = 50 * time.Millisecond
)

// Registration is a worker's place in WORKERS, kept alive in the background.
type Registration struct {
	q              *Queue
	id, pool, life string
	classes        []string

	control chan Control
	orders  chan Order    // the latest that nobody has looked at
	recheck chan struct{} // somebody spoke of what is wanted
	done    chan struct{}
	changed chan struct{}
	check   chan string // jobs that somebody spoke of on ctl.<worker>
	cancel  context.CancelFunc
	loops   sync.WaitGroup
	once    sync.Once // of Close

	mu     sync.Mutex
	worker Worker
	seq    uint64 // of the key as last written
	held   map[string]*holding
	order  Order
	// ordered: order was read.
	ordered bool
	err     error
	ended   bool
}

var errClosed = errors.New("registration was closed")

// Register announces a worker, then settles what a former life of the same ID
// held. Needed before Take and Claim. A *NoClassError: its pool or one of its
// classes is not there.
func (q *Queue) Register(ctx context.Context, w Worker) (*Registration, error) {
	if w.Pool == "" {
		w.Pool = job.DefaultPool
	}
	if len(w.Classes) == 0 {
		w.Classes = []string{job.DefaultClass}
	}
	if err := checkToken(w.ID); err != nil {
		return nil, fmt.Errorf("register worker: %w", err)
	}
	for _, class := range w.Classes {
		if err := q.checkClass(ctx, w.Pool, class); err != nil {
			return nil, fmt.Errorf("register worker %s: %w", w.ID, err)
		}
	}
	w.Schema, w.Life, w.Held = job.Schema, uuid.NewString(), nil
	if w.Started.IsZero() {
		w.Started = time.Now().UTC()
	}
	r := &Registration{
		q: q, id: w.ID, pool: w.Pool, life: w.Life, classes: w.Classes, worker: w, held: map[string]*holding{},
		control: make(chan Control, 64), orders: make(chan Order, 1), recheck: make(chan struct{}, 1), done: make(chan struct{}),
		changed: make(chan struct{}, 1), check: make(chan string, 64),
	}
	former, err := r.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	if former.Life != "" {
		q.SettleWorker(ctx, former)
	}
	// Before the first job is taken it must be known whether any may be.
	if err := r.readOrder(ctx); err != nil {
		_ = r.leave()
		return nil, fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	sub, err := q.nc.Subscribe(controlSubject(w.ID), r.hear)
	if err != nil {
		return nil, fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	var loop context.Context
	loop, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.loops.Go(func() { r.keep(loop) })
	r.loops.Go(func() {
		defer func() { _ = sub.Unsubscribe() }()
		r.watch(loop)
	})
	return r, nil
}

// enter writes the key over whatever stands there, and says what that was.
func (r *Registration) enter(ctx context.Context) (former Worker, err error) {
	for {
		former, seq, err := r.q.worker(ctx, r.pool, r.id)
		if err != nil && !errors.Is(err, job.ErrNotFound) {
			return Worker{}, err
		}
		if former.Life == r.life {
			r.seq = seq
			return Worker{}, nil // our own write whose answer was lost
		}
		msg, err := r.message(seq)
		if err != nil {
			return Worker{}, err
		}
		r.seq, err = r.q.publish(ctx, msg)
		if err == nil {
			return former, nil
		}
		if !errors.Is(err, errMoved) {
			return Worker{}, err
		}
	}
}

// message is the key's next value. It is written raw since the client's own
// update would drop the TTL.
func (r *Registration) message(expect uint64) (*nats.Msg, error) {
	r.mu.Lock()
	w := r.worker
	w.Held = make([]Held, 0, len(r.held))
	for _, h := range r.held {
		w.Held = append(w.Held, h.Held)
	}
	r.mu.Unlock()
	body, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	msg := r.q.message(workerSubject(w.Pool, w.ID))
	msg.Data = body
	msg.Header.Set(jetstream.MsgTTLHeader, workerTTL.String())
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expect, 10))
	return msg, nil
}

// keep renews the key: regularly, and soon after what is held has changed.
func (r *Registration) keep(ctx context.Context) {
	deadline := time.AfterFunc(silence, func() {
		r.end(fmt.Errorf("worker key could not be renewed for %s", silence))
	})
	defer deadline.Stop()
	next := time.NewTimer(beat)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.done:
			return
		case <-r.changed:
			if pause(ctx, listPause) != nil {
				return
			}
		case <-next.C:
		}
		for { // until it is renewed or the deadline has ended it
			sent := time.Now()
			err := r.renew(ctx)
			if err == nil {
				deadline.Reset(silence - time.Since(sent))
				break
			}
			if errors.Is(err, job.ErrLostClaim) {
				r.end(err)
				return
			}
			r.q.log.Debug("renew worker key", "error", err)
			select {
			case <-r.done:
				return
			default:
			}
			if pause(ctx, 200*time.Millisecond) != nil {
				return
			}
		}
		next.Reset(beat)
	}
}

// renew writes the key once.
func (r *Registration) renew(ctx context.Context) error {
	msg, err := r.message(r.seq)
	if err != nil {
		return err
	}
	seq, err := r.q.publishOnce(ctx, msg, time.Second)
	if err == nil {
		r.seq = seq
		return nil
	}
	if !isCode(err, codeWrongLastSequence) {
		return err
	}
	now, seq, err := r.q.worker(ctx, r.pool, r.id)
	switch {
	case err == nil && now.Life == r.life:
		r.seq = seq // our own write whose answer was lost
		return errors.New("worker key was written before")
	case err == nil:
		return fmt.Errorf("worker key belongs to another life of %s: %w", r.id, job.ErrLostClaim)
	case errors.Is(err, job.ErrNotFound):
		return fmt.Errorf("worker key has expired: %w", job.ErrLostClaim)
	}
	return err
}

// ID is the worker's.
func (r *Registration) ID() string { return r.id }

// Update changes what the worker says of itself (Draining, Images, …) and
// makes it known. ID, Pool, Classes, Life and Held stay as they are.
func (r *Registration) Update(change func(*Worker)) {
	r.mu.Lock()
	next := r.worker
	next.Images = slices.Clone(next.Images)
	change(&next)
	next.Schema, next.ID, next.Pool, next.Classes, next.Life = job.Schema, r.id, r.pool, r.classes, r.life
	r.worker = next
	r.mu.Unlock()
	r.wake()
}

// Control carries cancels and lost claims of held jobs. A word may repeat
// until the job is settled.
func (r *Registration) Control() <-chan Control { return r.control }

// Done is closed when the worker has no place any more: the key could not be
// renewed for 8 s, somebody else took it, or Close. The worker must then stop
// its sandboxes at once.
func (r *Registration) Done() <-chan struct{} { return r.done }

// Err says why the place was lost; nil while it is not, and after Close.
func (r *Registration) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(r.err, errClosed) {
		return nil
	}
	return r.err
}

func (r *Registration) end(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended, r.err = true, why
	close(r.done)
}

// Close removes the key. Settle what is held before; what is left is treated
// as lost. Closing twice is harmless.
func (r *Registration) Close() error {
	var err error
	r.once.Do(func() {
		r.mu.Lock()
		lost := r.ended
		r.mu.Unlock()
		r.end(errClosed)
		r.cancel()
		r.loops.Wait()
		if !lost {
			err = r.leave()
		}
	})
	return err
}

func (r *Registration) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	msg := r.q.message(workerSubject(r.pool, r.id))
	msg.Header.Set(headerOperation, purged)
	msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	msg.Header.Set(jetstream.MsgTTLHeader, workerTTL.String())
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(r.seq, 10))
	if _, err := r.q.publish(ctx, msg); err != nil && !errors.Is(err, errMoved) {
		return fmt.Errorf("unregister worker %s: %w", r.id, err)
	}
	return nil
}
