package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// setPool makes or changes a pool whatever it was before.
func setPool(t testing.TB, q *queue.Queue, p job.Pool) (revision uint64) {
	t.Helper()
	_, revision, err := q.Pool(within(t), p.Name)
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		t.Fatal(err)
	}
	if _, revision, err = q.SetPool(within(t), p, revision); err != nil {
		t.Fatal(err)
	}
	return revision
}

func in(rec job.Record, pool, class string) job.Record {
	rec.Pool, rec.Class = pool, class
	return rec
}

func registerIn(t testing.TB, q *queue.Queue, id, pool string, classes ...string) *queue.Registration {
	t.Helper()
	r, err := q.Register(within(t), queue.Worker{ID: id, Pool: pool, Classes: classes, Slots: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestJobsRunInTheirPoolAndClassOnly(t *testing.T) {
	q := fresh(t)
	setPool(t, q, job.Pool{Name: "gpu", Classes: []job.Class{{Name: "m"}, {Name: "l"}}})
	leading(t, q, 0)
	for _, rec := range []job.Record{spec("default"), in(spec("medium"), "gpu", "m"), in(spec("large"), "gpu", "l")} {
		accept(t, q, rec)
	}
	for _, w := range []struct {
		job string
		reg *queue.Registration
	}{
		{"large", registerIn(t, q, "w1", "gpu", "l")},
		{"medium", registerIn(t, q, "w2", "gpu", "m")},
		{"default", registerIn(t, q, "w3", "")},
	} {
		c := claim(t, q, w.reg)
		if c.Record.ID != w.job {
			t.Fatalf("worker %s got %s, not %s", w.reg.ID(), c.Record.ID, w.job)
		}
		if err := q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWorkerOfSeveralClassesTakesOneJobPerSlot(t *testing.T) {
	q := fresh(t)
	setPool(t, q, job.Pool{Name: "main", Classes: []job.Class{{Name: "s"}, {Name: "m"}, {Name: "l"}}})
	leading(t, q, 0)
	r := registerIn(t, q, "w1", "main", "s", "m", "l")
	const each = 20
	for _, class := range []string{"s", "m", "l"} {
		for i := range each {
			accept(t, q, in(spec(fmt.Sprint(class, i)), "main", class))
		}
	}
	seen := map[string]int{}
	for range 3 * each {
		c := claim(t, q, r)
		seen[c.Record.ID]++
		if n := len(queue.HeldBy(r)); n != 1 {
			t.Fatalf("%d jobs are held by one slot", n)
		}
		if err := q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 3*each {
		t.Fatalf("%d of %d jobs ran", len(seen), 3*each)
	}
	for class, want := range map[string]int{"s": 0, "m": 0, "l": 0} {
		eventually(t, "no hint of class "+class+" is held", func() bool { // they end without being waited for
			d, err := q.Depth(within(t), "main", class)
			if err != nil {
				t.Fatal(err)
			}
			return d.Held == want
		})
	}
}

func TestWorkerOfAnUnknownPoolOrClassIsRefused(t *testing.T) {
	q := fresh(t)
	for _, w := range []queue.Worker{
		{ID: "w1", Pool: "nowhere"}, {ID: "w1", Classes: []string{"s", "xxl"}}, {ID: "w1", Pool: "a b"},
	} {
		_, err := q.Register(within(t), w)
		var missing *queue.NoClassError
		if !errors.As(err, &missing) || !errors.Is(err, job.ErrNotFound) {
			t.Errorf("%+v: %v", w, err)
		}
	}
	if all, err := q.Workers(within(t)); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
}

func TestPoolsAreSetByCompareAndSet(t *testing.T) {
	q := fresh(t)
	p := job.Pool{Name: "gpu", Classes: []job.Class{{Name: "m"}}}
	revision := setPool(t, q, p)
	for _, other := range []uint64{0, revision + 1} {
		if _, _, err := q.SetPool(within(t), p, other); !errors.Is(err, queue.ErrChanged) {
			t.Fatalf("set over another: %v", err)
		}
	}
	p.Classes = append(p.Classes, job.Class{Name: "l", CPU: 4, Memory: 1 << 30})
	revision = setPool(t, q, p)
	for name, bad := range map[string]job.Pool{
		"no class":      {Name: "x"},
		"class twice":   {Name: "x", Classes: []job.Class{{Name: "a"}, {Name: "a", CPU: 1}}},
		"no name":       {Classes: p.Classes},
		"bad name":      {Name: "a.b", Classes: p.Classes},
		"class with *":  {Name: "x", Classes: []job.Class{{Name: "*"}}},
		"many a class":  {Name: "x", Classes: make([]job.Class, job.MaxClasses+1)},
		"class unnamed": {Name: "x", Classes: []job.Class{{CPU: 1}}},
	} {
		if _, _, err := q.SetPool(within(t), bad, 0); err == nil {
			t.Errorf("%s: was set", name)
		}
	}
	pools, err := q.Pools(within(t))
	if err != nil || len(pools) != 2 || pools[0].Name != "gpu" || len(pools[0].Classes) != 2 || pools[1].Name != job.DefaultPool {
		t.Fatalf("%+v, %v", pools, err)
	}
	if err := q.RemovePool(within(t), "gpu", revision); err != nil {
		t.Fatal(err)
	}
	if _, _, err := q.Pool(within(t), "gpu"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("removed and there: %v", err)
	}
	if _, _, err := q.SetPool(within(t), p, 0); err != nil {
		t.Fatalf("make again: %v", err)
	}
}

func TestWatchTellsOfEveryPool(t *testing.T) {
	q := fresh(t)
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan []job.Pool, 16)
	ended := make(chan error, 1)
	go func() { ended <- q.WatchPools(ctx, func(p []job.Pool) { told <- p }) }()
	t.Cleanup(func() { cancel(); <-ended })
	hear := func() []job.Pool {
		select {
		case p := <-told:
			return p
		case <-time.After(patience):
			t.Fatal("nothing is told")
			return nil
		}
	}
	if p := hear(); len(p) != 1 || p[0].Name != job.DefaultPool {
		t.Fatalf("at first %+v", p)
	}
	revision := setPool(t, q, job.Pool{Name: "gpu", Classes: []job.Class{{Name: "m"}}})
	if p := hear(); len(p) != 2 {
		t.Fatalf("then %+v", p)
	}
	if err := q.RemovePool(within(t), "gpu", revision); err != nil {
		t.Fatal(err)
	}
	if p := hear(); len(p) != 1 {
		t.Fatalf("at last %+v", p)
	}
}
