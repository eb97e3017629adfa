package queue_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func many(n int) []job.Record {
	recs := make([]job.Record, n)
	for i := range recs {
		recs[i] = spec(newID())
	}
	return recs
}

func balanced(b *testing.B) *queue.Queue {
	s, err := queue.StartServer(queue.ServerConfig{Dir: b.TempDir(), Logger: logger(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	return open(b, queue.Config{Server: s, Name: "bench"})
}

// BenchmarkAcceptMany accepts 10,000 jobs in windows of 500.
func BenchmarkAcceptMany(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		q, recs := balanced(b), many(10_000)
		b.StartTimer()
		began := time.Now()
		for i := 0; i < len(recs); i += 500 {
			for _, a := range q.AcceptMany(context.Background(), recs[i:i+500]) {
				if a.Err != nil {
					b.Fatal(a.Err)
				}
			}
		}
		b.ReportMetric(float64(len(recs))/time.Since(began).Seconds(), "jobs/s")
	}
}

// BenchmarkPipeline runs 10,000 no-op jobs from accept to commit, all parts
// at work at once.
func BenchmarkPipeline(b *testing.B) {
	for _, slots := range []int{4, 32} {
		b.Run(fmt.Sprint(slots, "slots"), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				q, recs := balanced(b), many(10_000)
				_, stop := leading(b, q, 0)
				r := register(b, q, "w1")
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				b.StartTimer()
				began := time.Now()
				var left atomic.Int64
				left.Store(int64(len(recs)))
				var wg sync.WaitGroup
				for range slots {
					wg.Go(func() { work(ctx, b, q, r, func() { stopAt(&left, cancel) }) })
				}
				for i := 0; i < len(recs); i += 500 {
					for _, a := range q.AcceptMany(context.Background(), recs[i:i+500]) {
						if a.Err != nil {
							b.Error(a.Err)
						}
					}
				}
				wg.Wait()
				b.ReportMetric(float64(len(recs))/time.Since(began).Seconds(), "jobs/s")
				b.StopTimer()
				stop()
				b.StartTimer()
			}
		})
	}
}

func stopAt(left *atomic.Int64, cancel func()) {
	if left.Add(-1) == 0 {
		cancel()
	}
}

// work is a slot whose jobs do nothing.
func work(ctx context.Context, b *testing.B, q *queue.Queue, r *queue.Registration, ended func()) {
	for {
		d, err := q.Take(ctx, r)
		if err != nil {
			return
		}
		c, err := q.Claim(ctx, r, d)
		if err != nil {
			continue
		}
		if err := q.Commit(context.WithoutCancel(ctx), c, done(c)); err != nil {
			b.Error(err)
		}
		ended()
	}
}

// BenchmarkLatency is one no-op job at a time on an idle queue, from accept
// to the moment a follower sees its final record.
func BenchmarkLatency(b *testing.B) {
	q := balanced(b)
	leading(b, q, 0)
	r := register(b, q, "w1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go work(ctx, b, q, r, func() {})
	ends := make(chan string, 16)
	go func() {
		_ = q.Follow(ctx, func(c queue.Change) {
			if c.State.Final() {
				ends <- c.ID
			}
		}, nil)
	}()
	b.ResetTimer()
	for b.Loop() {
		id := newID()
		accept(b, q, spec(id))
		if got := <-ends; got != id {
			b.Fatalf("%s ended instead of %s", got, id)
		}
	}
}
