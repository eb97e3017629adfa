package scheduler

import (
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

const laneA, laneB = "in.main.s.acme.day.5", "in.main.s.acme.night.0"

func counted(b *backlog) map[string]int {
	counts := map[string]int{}
	for _, w := range b.waiting() {
		counts[w.Subject] = int(w.Backlog)
	}
	return counts
}

func TestBacklogIsKeptBetweenQuestions(t *testing.T) {
	b := newBacklog(nil, "main", "s")
	for range 3 {
		b.arrive(laneA)
	}
	b.arrive("in.main.s.acme") // nobody's lane
	turns := []turn{{lane: b.waiting()[0], n: 5}}
	marks := b.marks(turns)
	b.arrive(laneA)
	b.arrive(laneB)
	// Three of five were there: what came since is all that can be left.
	b.moved(turns[0], marks[0], queue.Released{Released: 2, Dropped: 1})
	if got := counted(b); got[laneA] != 1 || got[laneB] != 1 {
		t.Errorf("%v", got)
	}
	if first := b.waiting()[0]; first.Tenant != "acme" || first.Queue != "day" || first.Priority != 5 {
		t.Errorf("%+v", first)
	}
}

func TestBacklogNeverCountsTooFewForWhatCameWhileItAsked(t *testing.T) {
	b := newBacklog(nil, "main", "s")
	b.arrive(laneA)
	before := map[string]uint64{laneA: 1} // as it is when the stream is asked
	b.arrive(laneA)
	b.arrive(laneB)
	b.merge([]queue.Lane{lane5(laneA, 7)}, before)
	if got := counted(b); got[laneA] != 8 || got[laneB] != 1 {
		t.Errorf("%v", got)
	}
	b.merge(nil, map[string]uint64{laneA: 2, laneB: 1})
	if got := counted(b); len(got) != 0 || len(b.lanes) != 0 {
		t.Errorf("%v of a stream without any", got)
	}
}

func TestLaneWaitsSinceItsHeadCame(t *testing.T) {
	b := newBacklog(nil, "main", "s")
	began := time.Now()
	b.arrive(laneA)
	since := b.waiting()[0].since
	if since.Before(began) {
		t.Errorf("since %v", began.Sub(since))
	}
	b.arrive(laneA)
	if again := b.waiting()[0].since; !again.Equal(since) {
		t.Error("a second hint changed it")
	}
	b.moved(turn{lane: b.waiting()[0], n: 1}, 2, queue.Released{Released: 1, Upto: since.Add(time.Millisecond)})
	if again := b.waiting()[0].since; !again.Equal(since.Add(time.Millisecond)) {
		t.Error("the one that left did not")
	}
}

func lane5(subject string, n uint64) queue.Lane {
	l, _ := queue.LaneOf(subject)
	l.Backlog = n
	return l
}

func TestLevelRisesOnlyWhileSlotsWaitForMore(t *testing.T) {
	now := time.Unix(1e9, 0)
	v := level{target: shallow}
	step := func(d queue.Depth) int { now = now.Add(10 * time.Millisecond); return v.room(d, now) }
	for range 100 {
		step(queue.Depth{Asking: 2}) // one job at a time
	}
	if v.target != shallow {
		t.Errorf("at idle: %d", v.target)
	}
	v.more = true
	for range 5 {
		step(queue.Depth{Asking: 2})
	}
	if v.target != 32*shallow {
		t.Errorf("after five times of want: %d", v.target)
	}
	if n := step(queue.Depth{Waiting: 16*shallow + 1}); n != 0 {
		t.Errorf("topped up by %d while it is more than half full", n)
	}
	for range 1000 {
		step(queue.Depth{Waiting: v.target})
	}
	if v.target != shallow {
		t.Errorf("with plenty lying there: %d", v.target)
	}
}
