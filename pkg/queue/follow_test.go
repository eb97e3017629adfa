package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// index folds changes as a scheduler does.
type index struct {
	mu     sync.Mutex
	jobs   map[string]queue.Change
	states map[string][]job.State
	caught chan struct{}
}

func follow(t testing.TB, q *queue.Queue) *index {
	t.Helper()
	x := &index{jobs: map[string]queue.Change{}, states: map[string][]job.State{}, caught: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- q.Follow(ctx, func(c queue.Change) {
			x.mu.Lock()
			defer x.mu.Unlock()
			if last := x.jobs[c.ID]; c.Seq <= last.Seq {
				t.Errorf("job %s: change %d after %d", c.ID, c.Seq, last.Seq)
			}
			x.jobs[c.ID] = c
			if c.Removed {
				c.State = "removed"
			}
			x.states[c.ID] = append(x.states[c.ID], c.State)
		}, func() { close(x.caught) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("follow ended with %v", err)
		}
	})
	return x
}

func (x *index) state(id string) job.State {
	x.mu.Lock()
	defer x.mu.Unlock()
	c, ok := x.jobs[id]
	if !ok {
		return "unknown"
	}
	if c.Removed {
		return "removed"
	}
	return c.State
}

func TestFollowSeesEveryChangeInOrder(t *testing.T) {
	s := stage(t)
	x := follow(t, s.q)
	<-x.caught
	rec := spec("one")
	rec.Batch, rec.Key, rec.Priority = "b1", "a/1 ä", 3
	// A record that is replaced before it was looked at is seen once, so each
	// change waits until the one before is.
	seen := func(state job.State) {
		eventually(t, string(state)+" is seen", func() bool { return x.state("one") == state })
	}
	accept(t, s.q, rec)
	seen(job.Queued)
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	seen(job.Running)
	if err := s.q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	seen(job.Succeeded)
	if err := s.q.Remove(within(t), "default", "one"); err != nil {
		t.Fatal(err)
	}
	seen("removed")
	want := fmt.Sprint([]job.State{job.Queued, job.Running, job.Succeeded, "removed"})
	if got := fmt.Sprint(x.states["one"]); got != want {
		t.Fatalf("saw %v", got)
	}
}

func TestFollowBeginsWithAllThereIs(t *testing.T) {
	q := fresh(t)
	var recs []job.Record
	for i := range 300 {
		rec := spec(fmt.Sprint("job", i))
		rec.Batch, rec.Key, rec.Labels = "b1", fmt.Sprint("key ", i), map[string]string{"i": fmt.Sprint(i)}
		recs = append(recs, rec)
	}
	for _, a := range q.AcceptMany(within(t), recs) {
		if a.Err != nil || !a.Created {
			t.Fatal(a.Err)
		}
	}
	if _, err := q.Cancel(within(t), "default", "job7"); err != nil {
		t.Fatal(err)
	}
	x := follow(t, q)
	select {
	case <-x.caught:
	case <-within(t).Done():
		t.Fatal("never caught up")
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.jobs) != len(recs) {
		t.Fatalf("caught up with %d of %d", len(x.jobs), len(recs))
	}
	for i, rec := range recs {
		c := x.jobs[rec.ID]
		if c.Key != rec.Key || c.Batch != "b1" || c.Labels["i"] != fmt.Sprint(i) || c.Image != rec.Image || c.AcceptedAt.IsZero() {
			t.Fatalf("%+v", c)
		}
	}
	if c := x.jobs["job7"]; c.State != job.Canceled || c.Reason != job.WasCanceled || c.ExpiresAt.IsZero() {
		t.Fatalf("%+v", c)
	}
}

func TestFollowGoesOnAfterTheServerRestarted(t *testing.T) {
	dir := t.TempDir()
	first := start(t, queue.ServerConfig{Dir: dir, Listen: "127.0.0.1:0", Token: "secret"})
	url := withToken(first, "secret")
	q := open(t, queue.Config{URL: url, Durability: queue.Fast})
	x := follow(t, q)
	accept(t, q, spec("before"))
	eventually(t, "the first is seen", func() bool { return x.state("before") == job.Queued })
	address := first.URL()[len("nats://"):]
	first.Close()
	second := start(t, queue.ServerConfig{Dir: dir, Listen: address, Token: "secret"})
	// Changed by somebody else, perhaps while the follower is still away.
	other := open(t, queue.Config{Server: second, Name: "other"})
	accept(t, other, spec("after"))
	if _, err := other.Cancel(within(t), "default", "before"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both changes are seen", func() bool {
		return x.state("before") == job.Canceled && x.state("after") == job.Queued
	})
}
