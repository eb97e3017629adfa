package queue

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// Where each write of a record is on the disk before it is acknowledged
// (Strict), those of one process that come together go there together: as one
// atomic batch, which costs the server one sync. Who comes while a batch is
// under way waits for the next one. A batch of which one write does not fit is
// refused whole; then each is tried on its own.

// group collects the writes to one record stream.
type group struct {
	mu      sync.Mutex
	waiting []*groupWrite
	busy    bool // somebody leads
}

// groupWrite is a write that waits for its turn.
type groupWrite struct {
	msg  *nats.Msg
	turn chan groupTurn
}

// groupTurn is what becomes of a write: it is done, or it leads the next group.
type groupTurn struct {
	lead bool
	published
}

const (
	// groupMost is how many writes one batch carries, groupBytes about how
	// many bytes.
	groupMost  = atomicMost
	groupBytes = 4 << 20
	groupTime  = 5 * time.Second
)

// grouped reports whether a message is one of those that are written in groups.
func (q *Queue) grouped(msg *nats.Msg) bool {
	return q.layout.durability == Strict && strings.HasPrefix(msg.Subject, "r.")
}

// publishInGroup is publishOnce together with others. It waits for its turn
// even if ctx ends, since others may wait for it.
func (q *Queue) publishInGroup(ctx context.Context, msg *nats.Msg) (uint64, error) {
	g := &q.groups[shardIn(msg.Subject)]
	w := &groupWrite{msg: msg, turn: make(chan groupTurn, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	lead := !g.busy
	g.busy = true
	g.mu.Unlock()
	if !lead {
		if t := <-w.turn; !t.lead {
			return t.seq, t.err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupTime)
	defer cancel()
	g.commit(ctx, q)
	t := <-w.turn
	return t.seq, t.err
}

// shardIn is the shard in the subject of a record.
func shardIn(subject string) int {
	rest := strings.TrimPrefix(subject, "r.")
	n, _ := strconv.Atoi(rest[:strings.IndexByte(rest, '.')]) // made by recordSubject
	return n
}

// commit writes the next group and hands the lead to the first that waits
// then.
func (g *group) commit(ctx context.Context, q *Queue) {
	g.mu.Lock()
	n := g.next()
	now := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.mu.Unlock()

	msgs := make([]*nats.Msg, len(now))
	for i, w := range now {
		msgs[i] = w.msg
	}
	for i, p := range q.publishTogether(ctx, msgs) {
		now[i].turn <- groupTurn{published: p}
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy = len(g.waiting) > 0; g.busy {
		g.waiting[0].turn <- groupTurn{lead: true}
	} else {
		g.waiting = nil
	}
}

// next is how many of those that wait make a group. Two writes to one record
// are never in the same: the second depends on the first.
func (g *group) next() int {
	subjects := map[string]bool{}
	size := 0
	for i, w := range g.waiting {
		size += len(w.msg.Data)
		if i > 0 && (i == groupMost || size > groupBytes || subjects[w.msg.Subject]) {
			return i
		}
		subjects[w.msg.Subject] = true
	}
	return len(g.waiting)
}

// publishTogether stores messages of one stream as one batch, or each on its
// own when one of them does not fit.
func (q *Queue) publishTogether(ctx context.Context, msgs []*nats.Msg) []published {
	if len(msgs) > 1 {
		last, err := q.publishAtomic(ctx, msgs, 2*time.Second)
		if err == nil || transient(err) {
			out := make([]published, len(msgs))
			for i := range out {
				out[i] = published{last - uint64(len(msgs)-1-i), err}
			}
			return out
		}
	}
	return q.publishEach(ctx, msgs)
}

// publishInGroups is publishAll for records: as many batches as it takes, those
// of different streams at the same time.
func (q *Queue) publishInGroups(ctx context.Context, msgs []*nats.Msg) []published {
	out := make([]published, len(msgs))
	shards := make([][]int, q.layout.shards)
	for i, msg := range msgs {
		if msg != nil {
			s := shardIn(msg.Subject)
			shards[s] = append(shards[s], i)
		}
	}
	var all errgroup.Group
	for _, places := range shards {
		all.Go(func() error {
			for len(places) > 0 {
				some, size := []*nats.Msg{}, 0
				for len(some) < min(groupMost, len(places)) && size < groupBytes {
					msg := msgs[places[len(some)]]
					some, size = append(some, msg), size+len(msg.Data)
				}
				for i, p := range q.publishTogether(ctx, some) {
					out[places[i]] = p
				}
				places = places[len(some):]
			}
			return nil
		})
	}
	_ = all.Wait() // what failed stands in out
	return out
}
