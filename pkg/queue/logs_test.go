package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestLogsAreReplayedAndFollowed(t *testing.T) {
	q := fresh(t)
	send := func(i int) {
		for !q.Log(queue.LogChunk{Job: "one", Step: "run", Stream: "stdout", Offset: int64(i), Data: []byte{byte(i)}}) {
			t.Log("dropped, again")
		}
	}
	for i := range 100 {
		send(i)
	}
	q.Log(queue.LogChunk{Job: "two", Data: []byte("of another job")})
	done := make(chan struct{})
	var mu sync.Mutex
	var got []queue.LogChunk
	ended := make(chan error, 1)
	go func() {
		ended <- q.FollowLogs(within(t), "one", 0, done, func(c queue.LogChunk) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, c)
			return nil
		})
	}()
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
	eventually(t, "the first hundred", func() bool { return count() == 100 })
	for i := 100; i < 150; i++ {
		send(i)
	}
	eventually(t, "the rest, live", func() bool { return count() == 150 })
	close(done)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for i, c := range got {
		if !bytes.Equal(c.Data, []byte{byte(i)}) || c.Job != "one" {
			t.Fatalf("%d: %+v", i, c)
		}
	}
	// From the middle, of a job that is over.
	var rest []queue.LogChunk
	err := q.FollowLogs(within(t), "one", got[119].Seq, done, func(c queue.LogChunk) error {
		rest = append(rest, c)
		return nil
	})
	if err != nil || len(rest) != 30 || rest[0].Offset != 120 {
		t.Fatalf("%d chunks, %v", len(rest), err)
	}
}

func TestLogDropsInsteadOfWaiting(t *testing.T) {
	server := start(t, queue.ServerConfig{Listen: "127.0.0.1:0", Token: "secret"})
	p, url := between(t, withToken(server, "secret"))
	q := open(t, queue.Config{URL: url})
	p.goDeaf()
	sent, dropped := 0, 0
	for range 2000 {
		if q.Log(queue.LogChunk{Job: "one", Data: make([]byte, 1024)}) {
			sent++
		} else {
			dropped++
		}
	}
	if sent == 0 || dropped == 0 || q.DroppedLogs() != int64(dropped) {
		t.Fatalf("%d sent, %d dropped, counted %d", sent, dropped, q.DroppedLogs())
	}
}

func TestFollowLogsPassesErrorsOn(t *testing.T) {
	q := fresh(t)
	q.Log(queue.LogChunk{Job: "one", Data: []byte("x")})
	stop := fmt.Errorf("enough")
	if err := q.FollowLogs(within(t), "one", 0, nil, func(queue.LogChunk) error { return stop }); err != stop {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	if err := q.FollowLogs(ctx, "one", 0, nil, func(queue.LogChunk) error { return nil }); err == nil {
		t.Fatal("no error of a canceled context")
	}
}
