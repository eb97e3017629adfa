package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// ErrLeft says that the worker was drained: it has finished what it held and
// has left the others.
var ErrLeft = errors.New("worker was drained")

// gate lets slots take jobs, or holds them back while the worker is drained or
// in quarantine. What was taken before goes on.
type gate struct {
	mu     sync.Mutex
	open   context.Context // nil while the gate is closed
	shut   context.CancelFunc
	inside int           // slots that take or run
	turned chan struct{} // closed and replaced at each turn of the gate
	empty  chan struct{} // a word for each time that the last slot has come out
}

func newGate() *gate {
	g := &gate{turned: make(chan struct{}), empty: make(chan struct{}, 1)}
	g.turn(true)
	return g
}

// turn opens or closes the gate.
func (g *gate) turn(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open == (g.open != nil) {
		return
	}
	if open {
		g.open, g.shut = context.WithCancel(context.Background())
	} else {
		g.shut()
		g.open = nil
	}
	close(g.turned)
	g.turned = make(chan struct{})
	g.tell()
}

// enter waits until the gate is open; taking ends when it closes or when until
// ends. false: until has ended.
func (g *gate) enter(until context.Context) (taking context.Context, leave func(), ok bool) {
	for until.Err() == nil {
		g.mu.Lock()
		open, turned := g.open, g.turned
		if open != nil {
			g.inside++
			g.mu.Unlock()
			taking, cancel := context.WithCancel(until)
			stop := context.AfterFunc(open, cancel)
			return taking, func() { stop(); cancel(); g.leave() }, true
		}
		g.mu.Unlock()
		select {
		case <-turned:
		case <-until.Done():
		}
	}
	return nil, nil, false
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.tell()
}

// tell says that nobody is inside a closed gate.
func (g *gate) tell() {
	if g.open != nil || g.inside > 0 {
		return
	}
	select {
	case g.empty <- struct{}{}:
	default:
	}
}

// idle reports whether the gate is closed and nobody inside.
func (g *gate) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open == nil && g.inside == 0
}

// obey does what is wanted of the worker until ctx ends; drained is called
// when it is to leave and holds nothing any more.
func (w *Worker) obey(ctx context.Context, r *queue.Registration, g *gate, order queue.Order, drained func()) {
	wake := time.NewTimer(0) // when there is something else to do about the order
	defer wake.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case order = <-r.Orders():
		case <-w.health.word:
		case <-g.empty:
		case <-wake.C:
		}
		now := time.Now()
		why := w.closed(&order, now)
		g.turn(why == "")
		if why != said {
			w.log.Warn("whether the worker takes jobs has changed", "takes", why == "", "reason", why)
			said = why
			r.Update(func(me *queue.Worker) {
				me.Draining, me.Why, me.Quarantined = order.Drain, why, time.Time{}
				if order.Quarantined.After(now) {
					me.Quarantined = order.Quarantined
				}
			})
		}
		if order.Drain && !order.Deadline.IsZero() && !order.Deadline.After(now) {
			w.held.stopAll(ErrDrained)
		}
		if next := soonest(now, order.Deadline, order.Quarantined); next > 0 {
			wake.Reset(next)
		}
		if order.Drain && !w.Stay && g.idle() {
			drained()
			return
		}
	}
}

// closed says why the worker may take nothing now, "" if it may. Its own
// illness counts as a quarantine.
func (w *Worker) closed(order *queue.Order, now time.Time) string {
	if until, why := w.health.ill(order.Released); until.After(now) && until.After(order.Quarantined) {
		order.Quarantined, order.Reason = until, why
	}
	return order.Closed(now)
}

// soonest is how long until the first of the times that are ahead, 0 if none
// is.
func soonest(now time.Time, times ...time.Time) (d time.Duration) {
	for _, t := range times {
		if left := t.Sub(now); left > 0 && (d == 0 || left < d) {
			d = left
		}
	}
	return d
}
