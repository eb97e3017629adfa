package queue_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestSettingsChangeByCompareAndSet(t *testing.T) {
	q := fresh(t)
	ctx := within(t)
	if _, _, err := q.Tenant(ctx, "acme"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("before: %v", err)
	}
	set, first, err := q.SetTenant(ctx, job.Tenant{ID: "acme", Share: job.Share{Weight: 4, Rate: job.Rate{PerSecond: 2.5}}}, 0)
	if err != nil || set.Schema != job.Schema || set.UpdatedAt.IsZero() {
		t.Fatalf("set: %+v %v", set, err)
	}
	got, revision, err := q.Tenant(ctx, "acme")
	if err != nil || revision != first || got.Weight != 4 || got.Rate.PerSecond != 2.5 {
		t.Fatalf("read: %+v at %d, %v", got, revision, err)
	}
	got.Paused = true
	if _, _, err := q.SetTenant(ctx, got, 0); !errors.Is(err, queue.ErrChanged) {
		t.Fatalf("made twice: %v", err)
	}
	if _, revision, err = q.SetTenant(ctx, got, first); err != nil {
		t.Fatal(err)
	}
	if _, _, err := q.SetTenant(ctx, got, first); !errors.Is(err, queue.ErrChanged) {
		t.Fatalf("changed on an old revision: %v", err)
	}
	if err := q.RemoveTenant(ctx, "acme", first); !errors.Is(err, queue.ErrChanged) {
		t.Fatalf("removed on an old revision: %v", err)
	}
	if _, _, err := q.SetQueue(ctx, job.Queue{Tenant: "acme", Name: "night"}, 0); err != nil {
		t.Fatal(err)
	}
	if err := q.RemoveTenant(ctx, "acme", revision); err != nil {
		t.Fatal(err)
	}
	if _, _, err := q.Tenant(ctx, "acme"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("removed: %v", err)
	}
	if _, _, err := q.QueueOf(ctx, "acme", "night"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("queue of one that is removed: %v", err)
	}
	if _, _, err := q.SetTenant(ctx, job.Tenant{ID: "acme"}, 0); err != nil {
		t.Fatalf("made again: %v", err)
	}
	if _, _, err := q.SetTenant(ctx, job.Tenant{ID: "a.b"}, 0); err == nil {
		t.Fatal("a name that is no token was taken")
	}
}

func TestSettingsAreSeenByAllWhoWatch(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	q, other := open(t, queue.Config{Server: server}), open(t, queue.Config{Server: server, Name: "other"})
	ctx := within(t)
	if _, _, err := q.SetTenant(ctx, job.Tenant{ID: "before"}, 0); err != nil {
		t.Fatal(err)
	}
	seen := make(chan queue.SettingChange, 16)
	watch, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = other.WatchSettings(watch, func(c queue.SettingChange) { seen <- c }) })
	defer done.Wait()
	defer stop()
	next := func() queue.SettingChange {
		select {
		case c := <-seen:
			return c
		case <-ctx.Done():
			t.Fatal("waited in vain")
			return queue.SettingChange{}
		}
	}
	if c := next(); c.Tenant == nil || c.Tenant.ID != "before" {
		t.Fatalf("at first: %+v", c)
	}
	if c := next(); !c.Listed {
		t.Fatalf("then: %+v", c)
	}
	set, revision, err := q.SetQueue(ctx, job.Queue{Tenant: "default", Name: "night", Share: job.Share{Paused: true}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.SetImage(ctx, queue.Image{Name: "busybox", Digest: "sha256:1", CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if c := next(); c.Queue == nil || !c.Queue.Paused || c.Queue.Name != "night" || c.Revision != revision || !c.Queue.UpdatedAt.Equal(set.UpdatedAt) {
		t.Fatalf("set: %+v", c)
	}
	if err := q.RemoveQueue(ctx, "default", "night", revision); err != nil {
		t.Fatal(err)
	}
	if c := next(); c.Queue == nil || !c.Removed || c.Queue.Name != "night" || c.Revision <= revision {
		t.Fatalf("removed: %+v", c)
	}
}

func TestReadyCountsWhatEachTenantAndQueueHasOut(t *testing.T) {
	q := fresh(t)
	for tenant, queues := range map[string][]string{"acme": {"day", "day", "night"}, "default": {"day"}} {
		for _, name := range queues {
			rec := spec(newID())
			rec.Tenant, rec.Queue = tenant, name
			accept(t, q, rec)
		}
	}
	releaseAll(t, q, lead(t, q))
	c := claim(t, q, register(t, q, "w1"))
	count := func() map[string]uint64 {
		out, err := q.Out(within(t), job.DefaultPool)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]uint64{}
		for _, o := range out {
			counts[o.Tenant+"/"+o.Queue] += o.Hints
		}
		return counts
	}
	want := map[string]uint64{"acme/day": 2, "acme/night": 1, "default/day": 1}
	if got := count(); !maps.Equal(got, want) { // running or not
		t.Fatalf("out: %v", got)
	}
	if err := q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	of := c.Record.Tenant + "/" + c.Record.Queue
	if want[of]--; want[of] == 0 {
		delete(want, of)
	}
	eventually(t, of+" has one less out", func() bool { return maps.Equal(count(), want) })
}
