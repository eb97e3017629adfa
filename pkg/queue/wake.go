package queue

import (
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// Wakes signals that a hint of a class has come in or, where this process follows the
// records (Follow), that one has changed: both may allow a release. Signals
// that nobody waits for become one. Before, arrived is called with the lane's
// subject for each hint that has come in, except for those that come while the
// connection is away or too slow. Call stop when done.
func (q *Queue) Wakes(pool, class string, arrived func(subject string)) (wakes <-chan struct{}, stop func(), err error) {
	c := make(chan struct{}, 1)
	// A republished subject, since it speaks only of what is stored.
	sub, err := q.nc.Subscribe("evt.in."+pool+"."+class+".>", func(m *nats.Msg) {
		arrived(strings.TrimPrefix(m.Subject, "evt."))
		wake(c)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listen for hints: %w", err)
	}
	q.wakers.add(c)
	return c, func() {
		q.wakers.remove(c)
		_ = sub.Unsubscribe()
	}, nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wakers are those who wait for records to change.
type wakers struct {
	mu  sync.Mutex
	all map[chan struct{}]bool
}

func (w *wakers) add(c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[chan struct{}]bool{}
	}
	w.all[c] = true
}

func (w *wakers) remove(c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, c)
}

// wake tells all of them.
func (w *wakers) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.all {
		wake(c)
	}
}
