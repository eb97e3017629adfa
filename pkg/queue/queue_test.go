package queue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestOneJobFromAcceptToCommit(t *testing.T) {
	q := fresh(t)
	id := newID()
	accept(t, q, spec(id))
	if got := get(t, q, id); got.State != job.Queued || got.Labels["suite"] != spec(id).Labels["suite"] {
		t.Fatalf("accepted: %+v", got)
	}
	if n := releaseAll(t, q, lead(t, q)); n.Released != 1 {
		t.Fatalf("released %+v", n)
	}
	r := register(t, q, "w1")
	c := claim(t, q, r)
	if got := get(t, q, id); got.State != job.Running || got.Worker != "w1" || got.Attempt != 1 {
		t.Fatalf("claimed: %+v", got)
	}
	if err := q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	got := get(t, q, id)
	if got.State != job.Succeeded || got.Attempts[0].Outcome != job.Finished || got.ExpiresAt.IsZero() {
		t.Fatalf("committed: %+v", got)
	}
	eventually(t, "READY is empty after the commit", func() bool {
		d, err := q.Depth(within(t), job.DefaultPool, job.DefaultClass)
		return err == nil && d.Waiting == 0 && d.Held == 0
	})
}

func TestEveryProfileRunsAJobAndKeepsItsFiles(t *testing.T) {
	for _, p := range []queue.Profile{queue.Fast, queue.Balanced, queue.Strict} {
		t.Run(string(p), func(t *testing.T) {
			dir := t.TempDir()
			server := start(t, queue.ServerConfig{Dir: dir, Profile: p})
			q := open(t, queue.Config{Server: server})
			accept(t, q, spec("one"))
			releaseAll(t, q, lead(t, q))
			c := claim(t, q, register(t, q, "w1"))
			if err := q.Commit(within(t), c, done(c)); err != nil {
				t.Fatal(err)
			}
			q.Close()
			server.Close()
			again := open(t, queue.Config{Server: start(t, queue.ServerConfig{Dir: dir, Profile: p})})
			if got := get(t, again, "one"); got.State != job.Succeeded {
				t.Fatalf("%+v", got)
			}
		})
	}
	if _, err := queue.StartServer(queue.ServerConfig{Dir: t.TempDir(), Profile: "reckless", Logger: logger(t)}); err == nil {
		t.Fatal("an unknown profile was taken")
	}
}

func TestTwoSlotsTwoPullsAndNoMore(t *testing.T) {
	q := fresh(t)
	r := register(t, q, "w1")
	ctx, cancel := context.WithCancel(within(t))
	var slots sync.WaitGroup
	for range 2 {
		slots.Go(func() { _, _ = q.Take(ctx, r) })
	}
	eventually(t, "two slots ask", func() bool {
		d, err := q.Depth(ctx, "main", "s")
		return err == nil && d.Asking == 2
	})
	for i := range 5 {
		accept(t, q, spec(fmt.Sprint("job", i)))
	}
	releaseAll(t, q, lead(t, q))
	slots.Wait()
	if d, err := q.Depth(ctx, "main", "s"); err != nil || d.Waiting != 3 || d.Held != 2 || d.Asking != 0 {
		t.Fatalf("%+v %v", d, err)
	}
	cancel()
}
