package queue_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// strict is a queue whose records are on the disk before they are
// acknowledged.
func strict(t *testing.T) *queue.Queue {
	return open(t, queue.Config{Server: start(t, queue.ServerConfig{Profile: queue.Strict})})
}

func TestWritesThatGoTogetherKeepTheirOwnFence(t *testing.T) {
	q := strict(t)
	lease, worker := lead(t, q), register(t, q, "w1")
	const n = 100
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, _, err := q.Accept(within(t), spec(fmt.Sprint("job", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wg.Go(func() { releaseAll(t, q, lease) })
	claims := make(chan *queue.Claim, n)
	for range n {
		wg.Go(func() {
			d, err := q.Take(within(t), worker)
			if err != nil {
				t.Error(err)
				return
			}
			c, err := q.Claim(within(t), worker, d)
			if err != nil {
				t.Error(err)
				return
			}
			claims <- c
		})
	}
	wg.Wait()
	close(claims)
	for c := range claims {
		if i := c.Record.ID; i == "job7" { // changed behind its holder's back
			if _, err := q.Cancel(within(t), "default", i); err != nil {
				t.Fatal(err)
			}
		}
		wg.Go(func() {
			err := q.Commit(within(t), c, done(c))
			if want := c.Record.ID == "job7"; errors.Is(err, queue.ErrCanceling) != want || err != nil && !want {
				t.Errorf("commit %s: %v", c.Record.ID, err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		want := job.Succeeded
		if i == 7 {
			want = job.Canceling
		}
		if got := get(t, q, fmt.Sprint("job", i)); got.State != want || got.Attempt != 1 {
			t.Errorf("job %d is %s after attempt %d", i, got.State, got.Attempt)
		}
	}
}

func TestOneRefusedWriteDoesNotTakeItsGroupWithIt(t *testing.T) {
	q := strict(t)
	taken := spec("job7")
	taken.BodyHash = "another body"
	accept(t, q, taken)
	var recs []job.Record
	for i := range 50 {
		recs = append(recs, spec(fmt.Sprint("job", i)))
	}
	for i, a := range q.AcceptMany(within(t), recs) {
		if i == 7 {
			if !errors.Is(a.Err, job.ErrConflict) {
				t.Errorf("job 7: %v", a.Err)
			}
			continue
		}
		if a.Err != nil || !a.Created {
			t.Errorf("job %d: created %t, %v", i, a.Created, a.Err)
		}
	}
}
