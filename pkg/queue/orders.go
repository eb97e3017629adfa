package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Order is what is wanted of a worker beside its jobs, and what is held
// against it. It lies in WORKERS beside the worker's own key, without end, and
// only schedulers write it: a worker cannot release itself. The worker reads
// it when it registers, when it is told of a change, and from time to time.
type Order struct {
	Schema int    `json:"schema"`
	Pool   string `json:"pool"`
	Worker string `json:"worker"`
	// Drain: finish what runs, take nothing more, leave.
	Drain bool `json:"drain,omitempty"`
	// Deadline is when what still runs then is stopped and given back; zero:
	// never.
	Deadline time.Time `json:"deadline,omitzero"`
	// Quarantined is until when the worker takes nothing, Reason why.
	Quarantined time.Time `json:"quarantined,omitzero"`
	Reason      string    `json:"reason,omitempty"`
	// Losses are the latest times that the worker vanished and nobody else
	// was to blame, oldest first.
	Losses []Loss `json:"losses,omitempty"`
	// Released is when an operator last said that it may take jobs again.
	Released time.Time `json:"released,omitzero"`

	seq uint64
}

// Loss is one time that a worker vanished.
type Loss struct {
	Life string    `json:"life"`
	At   time.Time `json:"at"`
	// Jobs are those that it held then.
	Jobs []string `json:"jobs,omitempty"`
}

// Closed says why the worker may take nothing now, "" if it may.
func (o Order) Closed(now time.Time) string {
	switch {
	case o.Drain:
		return "it is being drained"
	case o.Quarantined.After(now):
		return "it is in quarantine until " + o.Quarantined.UTC().Format(time.RFC3339) + ": " + o.Reason
	}
	return ""
}

// empty reports whether nothing is wanted of the worker.
func (o Order) empty() bool {
	return !o.Drain && o.Quarantined.IsZero() && len(o.Losses) == 0 && o.Released.IsZero()
}

// headerOrder marks a word on ctl.<worker> that is of the worker, not of a job.
const headerOrder = "Sandlot-Order"

func orderSubject(pool, id string) string {
	return "$KV." + workerBucket + ".order." + pool + "." + id
}

// Order is what is wanted of a worker; the zero Order if nothing is.
func (q *Queue) Order(ctx context.Context, pool, id string) (Order, error) {
	none := Order{Pool: pool, Worker: id}
	if checkToken(pool) != nil || checkToken(id) != nil {
		return none, fmt.Errorf("worker %q of pool %q: %w", id, pool, job.ErrNotFound)
	}
	m, err := q.lastAtLeader(ctx, workerStream, orderSubject(pool, id))
	if errors.Is(err, job.ErrNotFound) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("order of worker %s: %w", id, err)
	}
	return decodeOrder(none, m)
}

func decodeOrder(o Order, m message) (Order, error) {
	o.seq = m.seq
	if m.header.Get(headerOperation) != "" || gone(m.header) {
		return o, nil
	}
	if err := json.Unmarshal(m.data, &o); err != nil {
		return o, fmt.Errorf("order of worker %s: %w", o.Worker, err)
	}
	if o.Schema > job.Schema {
		return o, fmt.Errorf("order of worker %s: %w", o.Worker, job.ErrSchema)
	}
	return o, nil
}

// Orders lists what is wanted of all workers of whom anything is, whether
// they live or not.
func (q *Queue) Orders(ctx context.Context) ([]Order, error) {
	latest := map[string]message{}
	err := q.scan(ctx, workerStream, orderSubject("*", "*"), func(m message) { latest[m.subject] = m })
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	var all []Order
	for _, m := range latest {
		o, err := decodeOrder(Order{}, m)
		if err != nil {
			return nil, err
		}
		if !o.empty() {
			all = append(all, o)
		}
	}
	return all, nil
}

// ChangeOrder changes what is wanted of a worker as it stands, again when
// somebody else was faster, and tells the worker. An error of change ends it,
// and nothing is changed.
func (q *Queue) ChangeOrder(ctx context.Context, pool, id string, change func(*Order) error) (Order, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	for {
		o, err := q.Order(ctx, pool, id)
		if err == nil {
			err = change(&o)
		}
		if err != nil {
			return o, err
		}
		o.Schema = job.Schema
		msg := q.message(orderSubject(pool, id))
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(o.seq, 10))
		if o.empty() {
			msg.Header.Set(headerOperation, purged)
			msg.Header.Set(jetstream.MsgTTLHeader, markerTTL.String())
		} else if msg.Data, err = json.Marshal(o); err != nil {
			return o, fmt.Errorf("order of worker %s: %w", id, err)
		}
		seq, err := q.publish(ctx, msg)
		if errors.Is(err, errMoved) {
			continue // it moved, perhaps by ourselves: changing twice must be harmless
		}
		if err != nil {
			return o, fmt.Errorf("order of worker %s: %w", id, err)
		}
		o.seq = seq
		q.tellOrder(id)
		return o, nil
	}
}

// tellOrder is a hint: the worker reads what is wanted of it, now or soon.
func (q *Queue) tellOrder(worker string) {
	msg := q.message(controlSubject(worker))
	msg.Header.Set(headerOrder, "changed")
	if err := q.nc.PublishMsg(msg); err != nil {
		q.log.Debug("tell worker", "worker", worker, "error", err)
	}
}

// Orders tells what is wanted of the worker: at first as it stood when it
// registered, then after each change.
func (r *Registration) Orders() <-chan Order { return r.orders }

// orderEvery is how many beats apart the worker looks by itself.
const orderEvery = 5

// readOrder looks whether other things are wanted now.
func (r *Registration) readOrder(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	o, err := r.q.Order(ctx, r.pool, r.id)
	if err != nil {
		return err
	}
	r.mu.Lock()
	known := r.ordered && r.order.seq == o.seq
	r.order, r.ordered = o, true
	r.mu.Unlock()
	if known {
		return nil
	}
	select { // one that nobody has looked at is old now
	case <-r.orders:
	default:
	}
	o.Losses = slices.Clone(o.Losses)
	r.orders <- o
	return nil
}
