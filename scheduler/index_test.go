package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// change is the n-th change of a job of batch b.
func change(id string, seq uint64, state job.State) queue.Change {
	c := queue.Change{Seq: seq, Summary: queue.Summary{ID: id, Tenant: "default", Queue: "q", Batch: "b", Key: id, State: state, AcceptedAt: time.Unix(int64(len(id)), 0)}}
	if state.Final() {
		c.Blame, c.Reason = job.BlameNone, job.Exited
	}
	return c
}

// TestIndexIsSafeUnderRedelivery applies the lives of some jobs in any order,
// some changes twice, and expects what the last change of each says.
func TestIndexIsSafeUnderRedelivery(t *testing.T) {
	const n = 50
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		var changes []queue.Change
		for i := range n {
			id := fmt.Sprintf("job-%03d", i)
			for seq, s := range []job.State{job.Queued, job.Running, job.Retrying, job.Running, job.Succeeded} {
				changes = append(changes, change(id, uint64(seq+1), s))
			}
		}
		changes = append(changes, changes...)
		random.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
		x := newIndex(1000, "boot")
		for i, c := range changes {
			if i == len(changes)/3 {
				x.caughtUp()
			}
			x.apply(c)
		}
		counts, _ := x.batchCounts("default", "b")
		if counts.Jobs != n || counts.Final != n || counts.States[job.Succeeded] != n || len(counts.States) != 1 || counts.Verdicts[0].Count != n {
			t.Fatalf("seed %d: %+v", seed, counts)
		}
		told := map[string]bool{}
		jobs, _, all, _ := x.results("default", "b", 0, 10*n)
		for _, one := range jobs {
			told[one.id] = true
		}
		if len(jobs) != n || len(told) != n || !all {
			t.Fatalf("seed %d: %d results of %d jobs, all %v", seed, len(jobs), len(told), all)
		}
		q := x.queueList("default")[0]
		if q.Queued != 0 || q.Running != 0 || q.Retrying != 0 {
			t.Fatalf("seed %d: queue %+v", seed, q)
		}
		if page := x.list(filter{tenant: "default", limit: 1000}); len(page.Jobs) != n {
			t.Fatalf("seed %d: %d listed", seed, len(page.Jobs))
		}
	}
}

func TestIndexForgetsWhatWasRemoved(t *testing.T) {
	x := newIndex(1000, "boot")
	x.caughtUp()
	for i := range 3000 {
		id := fmt.Sprint(i)
		x.apply(change(id, 1, job.Succeeded))
		if i >= 10 {
			x.apply(queue.Change{Seq: 2, Removed: true, Summary: queue.Summary{ID: fmt.Sprint(i - 10)}})
		}
	}
	if len(x.entries) != 10 || len(x.order) > 2*1024+10 {
		t.Errorf("%d entries, %d in order", len(x.entries), len(x.order))
	}
	counts, _ := x.batchCounts("default", "b")
	if counts.Jobs != 10 || counts.Final != 10 {
		t.Errorf("counted %+v", counts)
	}
	jobs, _, all, _ := x.results("default", "b", 0, 100)
	if len(jobs) != 10 || !all {
		t.Errorf("%d results, all %v", len(jobs), all)
	}
}

func TestIndexKeepsWhatHasNotEnded(t *testing.T) {
	x := newIndex(100, "boot")
	x.caughtUp()
	for i := range 50 {
		x.apply(change(fmt.Sprintf("old-%03d", i), 1, job.Queued))
	}
	for i := range 1000 {
		x.apply(change(fmt.Sprintf("later-%04d", i), 1, job.Succeeded))
	}
	if page := x.list(filter{tenant: "default", limit: 1000, state: job.Queued}); len(page.Jobs) != 50 {
		t.Errorf("%d of 50 that wait are listed", len(page.Jobs))
	}
	if len(x.entries) > 107 || x.dropped == 0 {
		t.Errorf("%d entries, %d dropped", len(x.entries), x.dropped)
	}
}

func TestExplainEndNamesTheNumbers(t *testing.T) {
	code := 3
	record := func(state job.State, v job.Verdict) job.Record {
		return job.Record{State: state, Attempt: 1, Result: &job.Result{Verdict: v}}
	}
	for want, rec := range map[string]job.Record{
		"It succeeded: every step that counts exited with 0.":                                            record(job.Succeeded, job.Verdict{Blame: job.BlameNone, Reason: job.Exited}),
		`It failed because the program exited with 3 in step "run".`:                                     record(job.Failed, job.Verdict{Blame: job.BlameProgram, Reason: job.Exited, Evidence: job.Evidence{Step: "run", ExitCode: &code}}),
		`It failed because the program died of SIGSEGV, of its own making.`:                              record(job.Failed, job.Verdict{Blame: job.BlameProgram, Reason: job.Signaled, Evidence: job.Evidence{Signal: "SIGSEGV"}}),
		`It was stopped in step "run" after 1003 ms: limits.wall_ms is 1000 ms.`:                         record(job.Failed, job.Verdict{Blame: job.BlameLimit, Reason: job.TimedOut, Evidence: job.Evidence{Step: "run", Measured: 1003, Limit: 1000, Unit: "ms"}}),
		"It was stopped because it wrote 2 MiB (2097152 bytes): limits.output is 1 MiB (1048576 bytes).": record(job.Failed, job.Verdict{Blame: job.BlameLimit, Reason: job.OutputLimit, Evidence: job.Evidence{Measured: 2 << 20, Limit: 1 << 20, Unit: "bytes"}}),
		"It was canceled before it ran.":                                                                 {State: job.Canceled},
		"It was canceled during attempt 2.":                                                              {State: job.Canceled, Attempt: 2},
		"It expired before it could run, 2000 ms after its acceptance: start_by is 2 s.":                 record(job.Expired, job.Verdict{Evidence: job.Evidence{Measured: 2000, Unit: "ms", Detail: "start_by is 2 s"}}),
	} {
		if got := explainEnd(rec); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	told := (&Scheduler{}).explain(t.Context(), job.Record{State: job.Canceled, Attempt: 1, Attempts: []job.Attempt{
		{Number: 1, Worker: "w1", Outcome: job.Lost, Detail: "its key expired."},
	}}, time.Now())
	if want := "Attempt 1 on worker w1 was lost: the worker vanished (its key expired); nobody but the platform is to blame."; told[0] != want {
		t.Errorf("got %q", told[0])
	}
}
