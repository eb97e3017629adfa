package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestAcceptTwiceIsOneJob(t *testing.T) {
	q := fresh(t)
	first := accept(t, q, spec("one"))
	again, created, err := q.Accept(within(t), spec("one"))
	if err != nil || created || !again.AcceptedAt.Equal(first.AcceptedAt) {
		t.Fatalf("repeat: created %v, %v, accepted at %v and %v", created, err, again.AcceptedAt, first.AcceptedAt)
	}
	if n := releaseAll(t, q, lead(t, q)); n.Released != 1 {
		t.Fatalf("released %+v; the repeated hint must be one hint", n)
	}
}

func TestAcceptOfAnotherBodyIsAConflict(t *testing.T) {
	q := fresh(t)
	accept(t, q, spec("one"))
	other := spec("one")
	other.BodyHash = "another"
	if _, _, err := q.Accept(within(t), other); !errors.Is(err, job.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	if got := get(t, q, "one"); got.BodyHash != spec("one").BodyHash {
		t.Fatal("the first body was replaced")
	}
}

func TestConcurrentAcceptsOfOneKeyCreateOneJob(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	created, conflicts := 0, 0
	bodies := map[string]bool{}
	for i := range 8 {
		q := open(t, queue.Config{Server: server, Name: fmt.Sprint("gateway", i)})
		wg.Go(func() {
			rec := spec("same")
			rec.BodyHash = fmt.Sprint("body", i%2)
			got, made, err := q.Accept(within(t), rec)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, job.ErrConflict):
				conflicts++
			case err != nil:
				t.Error(err)
			default:
				bodies[got.BodyHash] = true
			}
			if made {
				created++
			}
		})
	}
	wg.Wait()
	if created != 1 || conflicts != 4 || len(bodies) != 1 {
		t.Fatalf("%d created, %d conflicts, bodies %v", created, conflicts, bodies)
	}
}

func TestAcceptWhoseAnswerGotLostIsStillCreated(t *testing.T) {
	server := start(t, queue.ServerConfig{Listen: "127.0.0.1:0", Token: "secret"})
	direct := open(t, queue.Config{Server: server})
	p, url := between(t, withToken(server, "secret"))
	q := open(t, queue.Config{URL: url, Name: "far"})
	accept(t, q, spec("zero")) // so that the bounds are known
	p.goDeaf()
	type answer struct {
		created bool
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		_, created, err := q.Accept(within(t), spec("one"))
		answers <- answer{created, err}
	}()
	eventually(t, "the record is stored", func() bool {
		_, err := direct.Get(within(t), "default", "one")
		return err == nil
	})
	p.recover()
	if a := <-answers; a.err != nil || !a.created {
		t.Fatalf("created %v, %v", a.created, a.err)
	}
}

func TestAcceptManyFollowsTheRulesOfAccept(t *testing.T) {
	q := fresh(t)
	accept(t, q, spec("known"))
	accept(t, q, spec("other"))
	changed := spec("other")
	changed.BodyHash = "another"
	huge := spec("huge")
	huge.Spec.Files = []job.File{{Path: "x", Content: strings.Repeat("x", queue.MaxRecord)}}
	recs := []job.Record{spec("new-1"), spec("known"), changed, spec("new-2"), spec("bad id"), huge, spec("new-1")}
	got := q.AcceptMany(within(t), recs)
	want := []struct {
		created bool
		err     error
	}{{true, nil}, {false, nil}, {false, job.ErrConflict}, {true, nil}, {false, nil}, {false, queue.ErrTooLarge}, {false, nil}}
	for i, w := range want {
		if got[i].Created != w.created || i != 4 && !errors.Is(got[i].Err, w.err) || got[i].Record.ID != recs[i].ID {
			t.Errorf("%d: %v %v", i, got[i].Created, got[i].Err)
		}
	}
	if got[4].Err == nil {
		t.Error("an ID with a space was accepted")
	}
	if n := releaseAll(t, q, lead(t, q)); n.Released != 4 {
		t.Errorf("released %+v", n)
	}
}

func TestAcceptRefusesWhatDoesNotFitAndKeepsNothingOfIt(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	q := open(t, queue.Config{Server: server, Sizes: &queue.Sizes{Records: 4 << 18}})
	var full *queue.FullError
	accepted := 0
	for i := range 1000 {
		rec := spec(fmt.Sprint("job", i))
		rec.Spec.Steps[0].Stdin = strings.Repeat("x", 10<<10)
		_, _, err := q.Accept(within(t), rec)
		if err == nil {
			accepted++
			continue
		}
		if !errors.Is(err, job.ErrFull) || !errors.As(err, &full) || full.RetryAfter <= 0 {
			t.Fatalf("job %d: %v", i, err)
		}
		if _, err := q.Get(within(t), "default", rec.ID); !errors.Is(err, job.ErrNotFound) {
			t.Fatalf("refused and stored: %v", err)
		}
		break
	}
	if full == nil || accepted == 0 {
		t.Fatalf("%d accepted, full: %v", accepted, full)
	}
	// What was accepted can still move on.
	if _, err := q.Cancel(within(t), "default", "job0"); err != nil {
		t.Fatal(err)
	}
}

func TestRefusedHintWithdrawsTheRecord(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	q := open(t, queue.Config{Server: server, Sizes: &queue.Sizes{Intake: 4096}})
	refused := 0
	for i := range 40 {
		rec := spec(fmt.Sprint("job", i))
		if _, _, err := q.Accept(within(t), rec); err == nil {
			continue
		} else if !errors.Is(err, job.ErrFull) {
			t.Fatal(err)
		}
		refused++
		if _, err := q.Get(within(t), "default", rec.ID); !errors.Is(err, job.ErrNotFound) {
			t.Fatalf("refused and stored: %v", err)
		}
	}
	if refused == 0 {
		t.Fatal("a lane of 4 KiB took 40 hints")
	}
}

func TestRemovedIDCanBeAcceptedAgain(t *testing.T) {
	q := fresh(t)
	l := lead(t, q)
	accept(t, q, spec("one"))
	releaseAll(t, q, l)
	if err := q.Remove(within(t), "default", "one"); !errors.Is(err, job.ErrNotFinal) {
		t.Fatalf("remove of a queued job: %v", err)
	}
	if _, err := q.Cancel(within(t), "default", "one"); err != nil {
		t.Fatal(err)
	}
	if err := q.Remove(within(t), "default", "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Get(within(t), "default", "one"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("after remove: %v", err)
	}
	if err := q.Remove(within(t), "default", "one"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("second remove: %v", err)
	}
	accept(t, q, spec("one"))
	if n := releaseAll(t, q, l); n.Released != 1 {
		t.Fatalf("released %+v; the hint of the former job swallowed that of the new one", n)
	}
}

func TestFinalRecordExpires(t *testing.T) {
	q := fresh(t)
	rec := spec("one")
	rec.Retention = time.Second
	accept(t, q, rec)
	changes := make(chan queue.Change, 100)
	ctx := within(t)
	go func() { _ = q.Follow(ctx, func(c queue.Change) { changes <- c }, nil) }()
	if _, err := q.Cancel(ctx, "default", "one"); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case c := <-changes:
			if !c.Removed {
				continue
			}
			if c.ID != "one" || c.Tenant != "default" {
				t.Fatalf("removed: %+v", c)
			}
		case <-ctx.Done():
			t.Fatal("no sign of its expiry")
		}
		break
	}
	if _, err := q.Get(ctx, "default", "one"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("after expiry: %v", err)
	}
	accept(t, q, rec)
}

func TestUnknownJobIsNotFound(t *testing.T) {
	q := fresh(t)
	for _, id := range []string{"nobody", "bad id", "a.b", "*", ">", ""} {
		if _, err := q.Get(within(t), "default", id); !errors.Is(err, job.ErrNotFound) {
			t.Errorf("get %q: %v", id, err)
		}
		if _, err := q.Cancel(within(t), "default", id); !errors.Is(err, job.ErrNotFound) {
			t.Errorf("cancel %q: %v", id, err)
		}
	}
}
