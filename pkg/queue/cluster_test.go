package queue_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// cluster is three real servers and how to connect to them.
func cluster(t *testing.T) ([]*testenv.NATSServer, func(name string) *queue.Queue) {
	t.Helper()
	servers := testenv.NATSServers(t, need.NATSServer(t), testenv.NATSOptions{Cluster: 3})
	return servers, func(name string) *queue.Queue {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		q, err := queue.Open(ctx, queue.Config{
			URL: testenv.NATSURL(servers), Name: name, Replicas: 3, Logger: logger(t),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(q.Close)
		return q
	}
}

// TestOpenAsksAgainWhereNobodyLeadsYet opens a queue on a server that cannot
// answer until its cluster is complete, and has a deadline of its own.
func TestOpenAsksAgainWhereNobodyLeadsYet(t *testing.T) {
	servers := testenv.NATSServers(t, need.NATSServer(t), testenv.NATSOptions{Cluster: 3})
	for _, s := range servers { // as if they had never been a cluster
		s.Kill(t)
		if err := os.RemoveAll(filepath.Join(s.Dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
	}
	servers[0].Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alone, url := between(t, servers[0].URL)
	opened := make(chan error, 1)
	go func() {
		q, err := queue.Open(ctx, queue.Config{URL: url, Name: "early", Replicas: 3, Logger: logger(t)})
		if err == nil {
			q.Close()
		}
		opened <- err
	}()
	<-alone.asked
	for _, s := range servers[1:] {
		s.Start(t)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}

// acceptMany accepts n jobs.
func acceptMany(t *testing.T, q *queue.Queue, prefix string, n int) {
	t.Helper()
	recs := make([]job.Record, n)
	for i := range recs {
		recs[i] = spec(fmt.Sprintf("%s-%d", prefix, i))
	}
	for _, a := range q.AcceptMany(within(t), recs) {
		if a.Err != nil {
			t.Fatal(a.Err)
		}
	}
}

func TestReplicatedReleaseMovesEachHintOnce(t *testing.T) {
	_, connect := cluster(t)
	q := connect("one")
	const n = 700 // more than one batch, and a rest
	acceptMany(t, q, "job", n)
	l := lead(t, q)
	began := time.Now()
	if got := releaseAll(t, q, l); got.Released != n || got.Dropped != 0 {
		t.Fatalf("%+v of %d", got, n)
	}
	t.Logf("%d released in %v", n, time.Since(began).Round(time.Millisecond))
	wantWaiting(t, q, n)

	// A release whose lane was not cut, as after a crash in between.
	acceptMany(t, q, "again", 10)
	if err := queue.ReleaseUncut(q, within(t), l); err != nil {
		t.Fatal(err)
	}
	acceptMany(t, q, "more", 10)
	if got := releaseAll(t, q, l); got.Released != 20 {
		t.Fatalf("%+v", got)
	}
	wantWaiting(t, q, n+20)
}

// wantWaiting waits until READY has n hints; its consumer may lag.
func wantWaiting(t *testing.T, q *queue.Queue, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("READY has %d hints", n), func() bool {
		depth, err := q.Depth(within(t), job.DefaultPool, job.DefaultClass)
		if err != nil || depth.Waiting > n {
			t.Fatalf("READY has %+v instead of %d, %v", depth, n, err)
		}
		return depth.Waiting == n
	})
}

func TestReplicatedReleaseIsFenced(t *testing.T) {
	_, connect := cluster(t)
	q := connect("old")
	acceptMany(t, q, "job", 5)
	l := lead(t, q)
	lead(t, connect("old")) // a later life takes the lease over
	lanes, err := q.Lanes(within(t), job.DefaultPool, queue.EveryClass)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Release(within(t), l, queue.Turn{Lane: lanes[0], N: 5}); !errors.Is(err, job.ErrLostClaim) {
		t.Fatalf("got %v", err)
	}
	if depth, err := q.Depth(within(t), job.DefaultPool, job.DefaultClass); err != nil || depth.Waiting != 0 {
		t.Fatalf("READY has %+v, %v", depth, err)
	}
}

// One of three servers is killed, whichever leads what, while jobs come in and
// are done: what was accepted ends, each job once.
func TestJobsGoOnWhenOneServerOfThreeIsKilled(t *testing.T) {
	servers, connect := cluster(t)
	gateway, leader, holder := connect("gateway"), connect("leader"), connect("holder")
	leading(t, leader, time.Second)
	r := register(t, holder, "w1")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const n = 300
	var work sync.WaitGroup
	work.Go(func() {
		for i := range n {
			rec := spec(fmt.Sprint("job", i))
			for {
				if _, _, err := gateway.Accept(ctx, rec); err == nil {
					break
				} else if ctx.Err() != nil {
					t.Errorf("accept: %v", err)
					return
				}
			}
			if i == n/3 {
				servers[1].Kill(t)
			}
		}
	})
	ended := map[string]int{}
	for len(ended) < n {
		d, err := holder.Take(ctx, r)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%d of %d ended", len(ended), n)
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := holder.Claim(ctx, r, d)
		if errors.Is(err, job.ErrStale) {
			continue
		}
		if err == nil {
			err = holder.Commit(ctx, c, done(c))
		}
		if err != nil {
			if errors.Is(err, job.ErrLostClaim) {
				continue
			}
			if r.Err() != nil { // silent for too long: the place is lost, as it must be
				r = register(t, holder, "w1")
				continue
			}
			t.Fatal(err)
		}
		ended[c.Record.ID]++
	}
	work.Wait()
	for i := range n {
		id := fmt.Sprint("job", i)
		rec, err := gateway.Get(ctx, "default", id)
		if err != nil || rec.State != job.Succeeded || ended[id] != 1 {
			t.Errorf("%s: %s, committed %d times, %v", id, rec.State, ended[id], err)
		}
	}
}
