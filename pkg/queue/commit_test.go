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

// farScene has its worker behind a proxy, everything else on the server.
type farScene struct {
	scene
	near    *queue.Queue
	proxy   *proxy
	address string // of the server
}

func stageFar(t *testing.T) farScene {
	server := start(t, queue.ServerConfig{Listen: "127.0.0.1:0", Token: "secret"})
	near := open(t, queue.Config{Server: server, Name: "near"})
	p, url := between(t, withToken(server, "secret"))
	far := open(t, queue.Config{URL: url, Name: "far"})
	return farScene{scene{t, far, lead(t, near), register(t, far, "w1")}, near, p, p.target}
}

// TestHintGivenBackIsGivenBackAgainIfThatWasLost would wait for ackWait, which
// is longer than the test may take, if the hint were given back only once.
func TestHintGivenBackIsGivenBackAgainIfThatWasLost(t *testing.T) {
	s := stageFar(t)
	accept(t, s.near, spec("one"))
	releaseAll(t, s.near, s.lease)
	c := claim(t, s.q, s.worker)
	s.proxy.loseOnce("-NAK")
	if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Drained}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if d := take(t, s.q, s.worker); d.Record.State != job.Retrying || !s.proxy.lost() {
		t.Fatalf("took %s, lost %v", d.Record.State, s.proxy.lost())
	}
}

func TestCommitWhoseAnswerGotLostCounts(t *testing.T) {
	s := stageFar(t)
	accept(t, s.near, spec("one"))
	releaseAll(t, s.near, s.lease)
	c := claim(t, s.q, s.worker)
	s.proxy.goDeaf()
	committed := make(chan error, 1)
	go func() { committed <- s.q.Commit(within(t), c, done(c)) }()
	eventually(t, "the record is final", func() bool { return get(t, s.near, "one").State == job.Succeeded })
	s.proxy.recover()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if got := get(t, s.near, "one"); len(got.Attempts) != 1 || got.State != job.Succeeded {
		t.Fatalf("%+v", got)
	}
}

func TestClaimWhoseAnswerGotLostIsHeld(t *testing.T) {
	s := stageFar(t)
	accept(t, s.near, spec("one"))
	releaseAll(t, s.near, s.lease)
	d := take(t, s.q, s.worker)
	s.proxy.goDeaf()
	type answer struct {
		c   *queue.Claim
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		c, err := s.q.Claim(within(t), s.worker, d)
		answers <- answer{c, err}
	}()
	eventually(t, "the record is claimed", func() bool { return get(t, s.near, "one").State == job.Running })
	s.proxy.recover()
	a := <-answers
	if a.err != nil {
		t.Fatal(a.err)
	}
	if err := s.q.Commit(within(t), a.c, done(a.c)); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s.near, "one"); got.Attempt != 1 || got.State != job.Succeeded {
		t.Fatalf("%+v", got)
	}
}

func TestCommitAgainstACancelBecomesCanceled(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	if _, err := s.q.Cancel(within(t), "default", "one"); err != nil {
		t.Fatal(err)
	}
	select {
	case ctl := <-s.worker.Control():
		if ctl.Job != "one" || ctl.Attempt != 1 || !errors.Is(ctl.Why, queue.ErrCanceling) {
			t.Fatalf("%+v", ctl)
		}
	case <-within(t).Done():
		t.Fatal("the holder was not told")
	}
	if err := s.q.Commit(within(t), c, done(c)); !errors.Is(err, queue.ErrCanceling) {
		t.Fatalf("commit of a success: %v", err)
	}
	if err := s.q.Retry(within(t), c, job.Attempt{Outcome: job.Drained}, time.Time{}); !errors.Is(err, queue.ErrCanceling) {
		t.Fatalf("retry: %v", err)
	}
	rec := done(c)
	rec.State, rec.Result.Verdict = job.Canceled, job.Verdict{Blame: job.BlameNone, Reason: job.WasCanceled}
	if err := s.q.Commit(within(t), c, rec); err != nil {
		t.Fatal(err)
	}
	got := get(t, s.q, "one")
	if got.State != job.Canceled || got.Attempts[0].Outcome != job.AttemptCanceled || len(got.Result.Steps) != 1 {
		t.Fatalf("%+v", got)
	}
	s.depth(0, 0)
	if again, err := s.q.Cancel(within(t), "default", "one"); !errors.Is(err, job.ErrStale) || again.State != job.Canceled {
		t.Fatalf("cancel of a canceled job: %v %v", again.State, err)
	}
}

func TestCanceledIsCommittedOnlyIfAskedFor(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	rec := done(c)
	rec.State = job.Canceled
	if err := s.q.Commit(within(t), c, rec); !errors.Is(err, job.ErrStale) {
		t.Fatalf("got %v", err)
	}
	if err := s.q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
}

func TestCancelRacesWithCommitToOneEnd(t *testing.T) {
	s := stage(t)
	for i := range 30 {
		id := fmt.Sprint("job", i)
		accept(t, s.q, spec(id))
		releaseAll(t, s.q, s.lease)
		c := claim(t, s.q, s.worker)
		canceled := make(chan error, 1)
		go func() {
			_, err := s.q.Cancel(within(t), "default", id)
			canceled <- err
		}()
		err := s.q.Commit(within(t), c, done(c))
		if errors.Is(err, queue.ErrCanceling) {
			rec := done(c)
			rec.State = job.Canceled
			err = s.q.Commit(within(t), c, rec)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := <-canceled; err != nil && !errors.Is(err, job.ErrStale) {
			t.Fatal(err)
		}
		if got := get(t, s.q, id); !got.State.Final() || len(got.Attempts) != 1 {
			t.Fatalf("%+v", got)
		}
	}
	s.depth(0, 0)
}

func TestCommitOfARemovedJobIsALostClaim(t *testing.T) {
	s := stage(t)
	other := register(t, s.q, "w2")
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	lost := claim(t, s.q, s.worker)
	if err := s.worker.Close(); err != nil {
		t.Fatal(err)
	}
	s.repeatHint("one", "again")
	c := claim(t, s.q, other)
	if err := s.q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
	if err := s.q.Remove(within(t), "default", "one"); err != nil {
		t.Fatal(err)
	}
	if err := s.q.Commit(within(t), lost, done(lost)); !errors.Is(err, job.ErrLostClaim) {
		t.Fatalf("got %v", err)
	}
}

func TestRetryKeepsWhatTheHolderNoted(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	c.Record.Spans = []job.Span{{Name: "prepare", ID: "00f067aa0ba902b7"}}
	how := job.Attempt{Outcome: job.Fault, Reason: job.SandboxFault, Detail: "it broke"}
	if err := s.q.Retry(within(t), c, how, time.Time{}); err != nil {
		t.Fatal(err)
	}
	got := get(t, s.q, "one")
	a := got.Attempts[0]
	if got.State != job.Retrying || got.Worker != "" || len(got.Spans) != 1 || a.Outcome != job.Fault ||
		a.Reason != job.SandboxFault || a.Detail != "it broke" || a.EndedAt.IsZero() {
		t.Fatalf("%+v", got)
	}
}

func TestTooLargeResultIsRefusedClearly(t *testing.T) {
	s := stage(t)
	accept(t, s.q, spec("one"))
	releaseAll(t, s.q, s.lease)
	c := claim(t, s.q, s.worker)
	rec := done(c)
	rec.Result.Steps[0].Stdout.Text = string(make([]byte, queue.MaxRecord))
	if err := s.q.Commit(within(t), c, rec); !errors.Is(err, queue.ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if err := s.q.Commit(within(t), c, done(c)); err != nil {
		t.Fatal(err)
	}
}

func TestCommitWaitsForAServerThatIsAway(t *testing.T) {
	dir := t.TempDir()
	first := start(t, queue.ServerConfig{Dir: dir, Listen: "127.0.0.1:0", Token: "secret"})
	q := open(t, queue.Config{URL: withToken(first, "secret")})
	ctx, stop := context.WithCancel(within(t))
	defer stop()
	r := register(t, q, "w1")
	accept(t, q, spec("one"))
	accept(t, q, spec("two"))
	releaseAll(t, q, lead(t, q))
	c := claim(t, q, r)
	address := first.URL()[len("nats://"):]
	first.Close()
	committed := make(chan error, 1)
	go func() { committed <- q.Commit(ctx, c, done(c)) }()
	start(t, queue.ServerConfig{Dir: dir, Listen: address, Token: "secret"})
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if got := get(t, q, c.Record.ID); got.State != job.Succeeded {
		t.Fatalf("%+v", got)
	}
	// The other job and its hint are still there.
	if other := claim(t, q, r); other.Record.ID == c.Record.ID {
		t.Fatal("the same job again")
	}
	select {
	case <-r.Done():
		t.Fatalf("the worker lost its place: %v", r.Err())
	default:
	}
}
