package scheduler

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// backlog is what the leader knows of the lanes of its pool: how much waits
// in each, and since when. The stream is asked at the start and from time to
// time, so that it costs little however many lanes there are; in between each
// hint that comes is counted, and each that goes. It may count a hint too
// many for a moment, never one too few for longer than it takes to ask.
type backlog struct {
	queue *queue.Queue
	pool  string
	class string

	mu    sync.Mutex
	lanes map[string]*lane
	// order has all lanes by tenant and queue, unless it is stale.
	order []*lane
	stale bool
	next  time.Time // when to ask the stream again
}

// lane is a lane in which hints wait, or did a moment ago.
type lane struct {
	waiting
	arrived uint64 // hints that have come since we know it
	// guessed: since is not known yet.
	guessed bool
}

const (
	// askEvery is the least time between two questions to the stream, and
	// askCost how many times longer it lasts than the answer took.
	askEvery = time.Second
	askCost  = 20
	// guesses is how many lanes are asked for their head at once, after a
	// scheduler has begun to lead.
	guesses = 256
)

func newBacklog(q *queue.Queue, pool, class string) *backlog {
	return &backlog{queue: q, pool: pool, class: class, lanes: map[string]*lane{}}
}

// arrive counts a hint that has come.
func (b *backlog) arrive(subject string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lanes[subject]
	if l == nil {
		named, ok := queue.LaneOf(subject)
		if !ok {
			return
		}
		l = b.add(named)
	}
	if l.Backlog == 0 {
		l.since, l.guessed = time.Now(), false
	}
	l.Backlog++
	l.arrived++
}

func (b *backlog) add(named queue.Lane) *lane {
	l := &lane{waiting: waiting{Lane: named, since: time.Now(), seat: &seat{}}}
	l.Backlog = 0
	b.lanes[named.Subject] = l
	b.stale = true
	return l
}

// refresh asks the stream if it is time to.
func (b *backlog) refresh(ctx context.Context) error {
	began := time.Now()
	b.mu.Lock()
	due := !began.Before(b.next)
	before := make(map[string]uint64, len(b.lanes))
	for subject, l := range b.lanes {
		before[subject] = l.arrived
	}
	b.mu.Unlock()
	if !due {
		return nil
	}
	lanes, err := b.queue.Lanes(ctx, b.pool, b.class)
	if err != nil {
		return err
	}
	b.merge(lanes, before)
	if err := b.learn(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = time.Now().Add(max(askEvery, askCost*time.Since(began)))
	return nil
}

// merge takes over what the stream says, with what has come since it was
// asked counted on top: some of it twice, perhaps.
func (b *backlog) merge(lanes []queue.Lane, before map[string]uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	listed := make(map[string]bool, len(lanes))
	for _, named := range lanes {
		listed[named.Subject] = true
		l := b.lanes[named.Subject]
		if l == nil {
			l = b.add(named)
			l.guessed = true
		}
		l.Backlog = named.Backlog + l.arrived - before[named.Subject]
	}
	for subject, l := range b.lanes {
		if listed[subject] {
			continue
		}
		if l.Backlog = l.arrived - before[subject]; l.Backlog == 0 {
			delete(b.lanes, subject)
			b.stale = true
		}
	}
}

// learn asks since when lanes wait that were there before us, some at a time.
func (b *backlog) learn(ctx context.Context) error {
	b.mu.Lock()
	var ask []queue.Lane
	for _, l := range b.lanes {
		if l.guessed && len(ask) < guesses {
			ask = append(ask, l.Lane)
		}
	}
	b.mu.Unlock()
	for _, named := range ask {
		at, err := b.queue.Head(ctx, named)
		if err != nil {
			return err
		}
		b.mu.Lock()
		if l := b.lanes[named.Subject]; l != nil && l.guessed {
			l.guessed = false
			if !at.IsZero() {
				l.since = at
			}
		}
		b.mu.Unlock()
	}
	return nil
}

// waiting are the lanes in which hints wait, by tenant and queue.
func (b *backlog) waiting() []waiting {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stale {
		b.order = b.order[:0]
		for _, l := range b.lanes {
			b.order = append(b.order, l)
		}
		slices.SortFunc(b.order, func(x, y *lane) int {
			return cmp.Or(cmp.Compare(x.Tenant, y.Tenant), cmp.Compare(x.Queue, y.Queue), cmp.Compare(x.Priority, y.Priority))
		})
		b.stale = false
	}
	var list []waiting
	for _, l := range b.order {
		if l.Backlog > 0 {
			list = append(list, l.waiting)
		}
	}
	return list
}

// doubt has the stream asked at the next refresh: what was counted may be wrong.
func (b *backlog) doubt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = time.Time{}
}

// marks are how many hints had come to each lane of some turns. Take them
// before the turns are released.
func (b *backlog) marks(turns []turn) []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	marks := make([]uint64, len(turns))
	for i, t := range turns {
		if l := b.lanes[t.lane.Subject]; l != nil {
			marks[i] = l.arrived
		}
	}
	return marks
}

// moved takes off what a turn has moved. One that moved less than it was to
// has emptied its lane: what came since its mark is all that can be there.
func (b *backlog) moved(t turn, mark uint64, done queue.Released) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lanes[t.lane.Subject]
	if l == nil {
		return
	}
	n := uint64(done.Released + done.Dropped)
	if l.Backlog -= min(n, l.Backlog); int(n) < t.n {
		l.Backlog = min(l.Backlog, l.arrived-mark)
	}
	if !done.Upto.IsZero() {
		l.since = done.Upto
	}
}
