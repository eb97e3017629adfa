package scheduler

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// fleet is a fair with what it deals out of.
type fleet struct {
	*fair
	now     time.Time
	tenants map[string]job.Share
	queues  map[scoped]job.Share
	lanes   []waiting
	out     map[scoped]int
	asked   uint64
}

func newFleet() *fleet {
	return &fleet{fair: newFair(time.Minute, newTokens()), now: time.Unix(1e9, 0), tenants: map[string]job.Share{}, queues: map[scoped]job.Share{}, out: map[scoped]int{}}
}

// waits adds a lane whose head has waited for some time.
func (f *fleet) waits(tenant, name string, priority, n int, age time.Duration) {
	f.lanes = append(f.lanes, waiting{queue.Lane{Subject: fmt.Sprint(tenant, ".", name, ".", priority), Tenant: tenant, Queue: name, Priority: priority, Backlog: uint64(n)}, f.now.Add(-age), &seat{}})
}

// release deals room hints and takes them off; what is told is by lane.
func (f *fleet) release(room int) (map[string]int, held) {
	f.asked++
	turns, h := f.deal(table{
		now: f.now, room: room, lanes: f.lanes, revision: f.asked,
		share: func(t, q string) job.Share {
			if q == "" {
				return f.tenants[t]
			}
			return f.queues[scoped{t, q}]
		},
		out: func(t, q string) int { return f.out[scoped{t, q}] },
	})
	got := map[string]int{}
	for _, t := range turns {
		for i := range f.lanes {
			if f.lanes[i].Subject == t.lane.Subject {
				f.lanes[i].Backlog -= uint64(t.n)
			}
		}
		f.out[scoped{t.lane.Tenant, ""}] += t.n
		f.out[scoped{t.lane.Tenant, t.lane.Queue}] += t.n
		got[t.lane.Subject] += t.n
	}
	return got, h
}

// many releases again and again and adds up.
func (f *fleet) many(times, room int) map[string]int {
	sum := map[string]int{}
	for range times {
		got, _ := f.release(room)
		for k, n := range got {
			sum[k] += n
		}
	}
	return sum
}

func TestSharesFollowWeights(t *testing.T) {
	for _, room := range []int{1, 3, 8, 100} {
		f := newFleet()
		total := 0
		for i := range 20 {
			id := fmt.Sprintf("t%02d", i)
			f.tenants[id] = job.Share{Weight: []int{1, 2, 4}[i%3]}
			total += f.tenants[id].Weight
			f.waits(id, "q", 5, 100_000, 0)
		}
		given := total * 100
		sum := f.many(given/room, room)
		for id, s := range f.tenants {
			want := float64(given/room*room) * float64(s.Weight) / float64(total)
			if got := float64(sum[id+".q.5"]); got < want-2 || got > want+2 {
				t.Errorf("room %d: tenant %s of weight %d got %v of %v", room, id, s.Weight, got, want)
			}
		}
	}
}

func TestDeal(t *testing.T) {
	type lane struct {
		tenant, queue string
		priority, n   int
		age           time.Duration
	}
	cases := map[string]struct {
		tenants     map[string]job.Share
		queues      map[scoped]job.Share
		out         map[scoped]int
		lanes       []lane
		times, room int
		want        map[string]int
	}{
		"nothing waits": {times: 1, room: 8, want: map[string]int{}},
		"all there is goes when there is room": {
			lanes: []lane{{"a", "q", 5, 3, 0}, {"b", "q", 9, 4, 0}}, times: 1, room: 100,
			want: map[string]int{"a.q.5": 3, "b.q.9": 4},
		},
		"a better priority goes strictly first": {
			lanes: []lane{{"a", "q", 5, 100, 0}, {"b", "q", 4, 7, 0}}, times: 1, room: 10,
			want: map[string]int{"a.q.5": 3, "b.q.4": 7},
		},
		"a lane rises a band for each minute that its head has waited": {
			lanes: []lane{{"a", "q", 5, 100, 119 * time.Second}, {"b", "q", 3, 100, 0}, {"c", "q", 6, 100, 3 * time.Minute}}, times: 1, room: 10,
			want: map[string]int{"b.q.3": 5, "c.q.6": 5},
		},
		"no lane rises above the first band": {
			lanes: []lane{{"a", "q", 0, 100, 0}, {"b", "q", 9, 100, 24 * time.Hour}}, times: 1, room: 10,
			want: map[string]int{"a.q.0": 5, "b.q.9": 5},
		},
		"priorities of one queue that have met take turns": {
			lanes: []lane{{"a", "q", 0, 100, 0}, {"a", "q", 9, 100, time.Hour}}, times: 5, room: 2,
			want: map[string]int{"a.q.0": 5, "a.q.9": 5},
		},
		"a tenant with many queues has one share": {
			lanes: []lane{{"a", "p", 5, 100, 0}, {"a", "q", 5, 100, 0}, {"a", "r", 5, 100, 0}, {"b", "q", 5, 100, 0}}, times: 4, room: 3,
			want: map[string]int{"a.p.5": 2, "a.q.5": 2, "a.r.5": 2, "b.q.5": 6},
		},
		"queues of a tenant share it by weight": {
			queues: map[scoped]job.Share{{"a", "p"}: {Weight: 3}},
			lanes:  []lane{{"a", "p", 5, 100, 0}, {"a", "q", 5, 100, 0}}, times: 8, room: 1,
			want: map[string]int{"a.p.5": 6, "a.q.5": 2},
		},
		"what one cannot use goes to the others by weight": {
			tenants: map[string]job.Share{"b": {Weight: 2}},
			lanes:   []lane{{"a", "q", 5, 100, 0}, {"b", "q", 5, 100, 0}, {"c", "q", 5, 1, 0}}, times: 1, room: 31,
			want: map[string]int{"a.q.5": 10, "b.q.5": 20, "c.q.5": 1},
		},
		"who is paused is passed over": {
			tenants: map[string]job.Share{"a": {Paused: true}}, queues: map[scoped]job.Share{{"b", "p"}: {Paused: true}},
			lanes: []lane{{"a", "q", 0, 100, 0}, {"b", "p", 0, 100, 0}, {"b", "q", 5, 100, 0}}, times: 1, room: 10,
			want: map[string]int{"b.q.5": 10},
		},
		"a cap counts what is out": {
			tenants: map[string]job.Share{"a": {MaxRunning: 10}}, queues: map[scoped]job.Share{{"b", "p"}: {MaxRunning: 4}},
			out:   map[scoped]int{{"a", ""}: 7, {"b", "p"}: 4},
			lanes: []lane{{"a", "q", 5, 100, 0}, {"b", "p", 5, 100, 0}, {"b", "q", 5, 100, 0}}, times: 3, room: 10,
			want: map[string]int{"a.q.5": 3, "b.q.5": 27},
		},
		"a cap holds over all bands and queues": {
			tenants: map[string]job.Share{"a": {MaxRunning: 5}},
			lanes:   []lane{{"a", "p", 0, 2, 0}, {"a", "p", 3, 2, 0}, {"a", "q", 3, 2, 0}, {"b", "q", 9, 100, 0}}, times: 1, room: 10,
			want: map[string]int{"a.p.0": 2, "a.p.3": 2, "a.q.3": 1, "b.q.9": 5},
		},
		"a rate lets its burst pass": {
			tenants: map[string]job.Share{"a": {Rate: job.Rate{PerSecond: 1, Burst: 4}}},
			queues:  map[scoped]job.Share{{"b", "q"}: {Rate: job.Rate{PerSecond: 2.5}}},
			lanes:   []lane{{"a", "q", 5, 100, 0}, {"b", "q", 5, 100, 0}}, times: 3, room: 10,
			want: map[string]int{"a.q.5": 4, "b.q.5": 2},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFleet()
			if c.tenants != nil {
				f.tenants = c.tenants
			}
			if c.queues != nil {
				f.queues = c.queues
			}
			if c.out != nil {
				f.out = c.out
			}
			for _, l := range c.lanes {
				f.waits(l.tenant, l.queue, l.priority, l.n, l.age)
			}
			if got := f.many(c.times, c.room); !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestRateIsKeptOverTime(t *testing.T) {
	f := newFleet()
	f.tenants["a"] = job.Share{Rate: job.Rate{PerSecond: 20, Burst: 5}}
	f.waits("a", "q", 5, 1_000_000, 0)
	n := 0
	for range 1000 { // 10 s in steps of 10 ms
		got, h := f.release(50)
		n += got["a.q.5"]
		if f.now = f.now.Add(10 * time.Millisecond); got["a.q.5"] == 0 && (h.token.Before(f.now.Add(-10*time.Millisecond)) || h.token.After(f.now.Add(50*time.Millisecond))) {
			t.Fatalf("the next token is told for %v", h.token.Sub(f.now))
		}
	}
	if n < 200 || n > 205 {
		t.Errorf("%d in 10 s at 20 a second with a burst of 5", n)
	}
	f.release(50)
	f.giveBack(f.lanes[0].Lane, 3)
	if got, _ := f.release(50); got["a.q.5"] != 3 {
		t.Errorf("%v after 3 were given back", got)
	}
}

func TestNobodySavesUpTurns(t *testing.T) {
	f := newFleet()
	f.waits("a", "q", 5, 1_000_000, 0)
	f.waits("b", "q", 5, 0, 0)
	f.many(1000, 10)
	f.giveBack(f.lanes[1].Lane, 500) // came to nothing, and then none waited
	f.many(2, 10)
	f.lanes[1].Backlog = 1000
	if got := f.many(10, 10); got["a.q.5"] != 50 || got["b.q.5"] != 50 {
		t.Errorf("after an absence: %v", got)
	}
	f.tenants["b"] = job.Share{Paused: true}
	f.many(100, 10)
	f.tenants["b"] = job.Share{}
	if got := f.many(10, 10); got["a.q.5"] != 50 || got["b.q.5"] != 50 {
		t.Errorf("after a pause: %v", got)
	}
}

func TestMemoryOfFairIsBounded(t *testing.T) {
	f := newFleet()
	for i := range 5000 {
		id := fmt.Sprint("t", i)
		f.tenants[id] = job.Share{Rate: job.Rate{PerSecond: 100}}
		f.lanes = nil
		f.waits(id, "q", 5, 1, 0)
		f.release(10)
		f.now = f.now.Add(100 * time.Millisecond)
	}
	if len(f.accounts) > 3*2100 || len(f.tokens.buckets) > 2*1100 {
		t.Errorf("%d accounts, %d buckets", len(f.accounts), len(f.tokens.buckets))
	}
}

func BenchmarkDealOfThousands(b *testing.B) {
	f := newFleet()
	for i := range 5000 {
		f.waits(fmt.Sprintf("t%05d", i), "q", 5, 1_000_000_000, 0)
	}
	share := func(string, string) job.Share { return job.Share{} }
	for b.Loop() {
		f.deal(table{now: f.now, room: 64, lanes: f.lanes, share: share, revision: 1})
	}
}
