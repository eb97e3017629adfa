package job_test

import (
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// tried are attempts with these outcomes.
func tried(outcomes ...job.Outcome) []job.Attempt {
	var all []job.Attempt
	for i, o := range outcomes {
		all = append(all, job.Attempt{Number: i + 1, Outcome: o})
	}
	return append(all, job.Attempt{Number: len(outcomes) + 1}) // the one that has just ended
}

func TestRetryGoesByBlame(t *testing.T) {
	exited := job.Verdict{Blame: job.BlameProgram, Reason: job.Exited}
	oom := job.Verdict{Blame: job.BlameLimit, Reason: job.OutOfMemory}
	fault := job.Verdict{Blame: job.BlamePlatform, Reason: job.SandboxFault}
	onProgram := job.Retry{MaxAttempts: 3, On: []string{"program"}}.Filled()
	cases := map[string]struct {
		retry    job.Retry
		attempts []job.Attempt
		verdict  job.Verdict
		how      job.Outcome
		again    bool
	}{
		"by default a program's failure stands":      {job.Retry{}, tried(), exited, job.Finished, false},
		"by default a limit stands":                  {job.Retry{}, tried(), oom, job.Finished, false},
		"a fault is always tried again":              {job.Retry{}, tried(), fault, job.Fault, true},
		"faults are used up after five":              {job.Retry{}, tried(job.Fault, job.Lost, job.Fault, job.Lost), fault, job.Fault, false},
		"drained attempts use up nothing":            {job.Retry{}, tried(job.Drained, job.Drained, job.Drained, job.Drained, job.Drained), fault, job.Fault, true},
		"a blame stands for its reasons":             {onProgram, tried(), exited, job.AttemptFailed, true},
		"another blame is not named":                 {onProgram, tried(), oom, job.Finished, false},
		"a reason names itself":                      {job.Retry{MaxAttempts: 2, On: []string{"out_of_memory"}}, tried(), oom, job.AttemptFailed, true},
		"the last attempt's verdict stands":          {onProgram, tried(job.AttemptFailed, job.AttemptFailed), exited, job.AttemptFailed, false},
		"faults use up none of the user's attempts":  {onProgram, tried(job.Fault, job.Lost, job.AttemptFailed, job.Fault), exited, job.AttemptFailed, true},
		"the user's attempts use up none of faults'": {onProgram, tried(job.AttemptFailed, job.AttemptFailed, job.Fault, job.Fault, job.Fault), fault, job.Fault, true},
		"success is never tried again":               {onProgram, tried(), job.Verdict{Blame: job.BlameNone, Reason: job.Exited}, job.Finished, false},
		"a reason shared with success is not either": {job.Retry{MaxAttempts: 2, On: []string{"exited"}}, tried(), job.Verdict{Blame: job.BlameNone, Reason: job.Exited}, job.Finished, false},
		"nor is a job that was canceled or expired":  {onProgram, tried(), job.Verdict{Blame: job.BlameNone, Reason: job.HasExpired}, job.Finished, false},
		"one attempt is no retry":                    {job.Retry{MaxAttempts: 1, On: []string{"program"}}, tried(), exited, job.AttemptFailed, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			how, _, again := c.retry.Next(c.attempts, c.verdict, 0)
			if how != c.how || again != c.again {
				t.Errorf("got %s, again %v; want %s, %v", how, again, c.how, c.again)
			}
		})
	}
}

func TestBackoffDoublesUpToItsBoundWithSomeChance(t *testing.T) {
	retry := job.Retry{MaxAttempts: 20, On: []string{"program"}, Backoff: 100, MaxBackoff: 1000}
	exited := job.Verdict{Blame: job.BlameProgram, Reason: job.Exited}
	var before []job.Outcome
	for _, want := range []time.Duration{
		100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, time.Second, time.Second,
	} {
		_, longest, _ := retry.Next(tried(before...), exited, 0)
		_, shortest, _ := retry.Next(tried(before...), exited, 1)
		if longest != want || shortest != want*3/4 {
			t.Errorf("after %d failures between %s and %s, want up to %s", len(before), shortest, longest, want)
		}
		before = append(before, job.AttemptFailed)
	}
	if got := (job.Retry{On: []string{"limit"}}).Filled(); got.MaxAttempts != 3 || got.Backoff != 1000 || got.MaxBackoff != 60_000 {
		t.Errorf("defaults %+v", got)
	}
	if got := (job.Retry{On: []string{"limit"}, Backoff: 90_000}).Filled(); got.MaxBackoff != 90_000 {
		t.Errorf("longest wait %s below the first", got.MaxBackoff)
	}
}

func TestBudgetsDecideWhenAJobExpires(t *testing.T) {
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	both := job.Budgets{StartBy: 10_000, Total: 60_000}
	cases := map[string]struct {
		budgets job.Budgets
		attempt int
		after   time.Duration
		limit   float64 // of the evidence; 0: not over
	}{
		"no budget":                                    {job.Budgets{}, 0, 1000 * time.Hour, 0},
		"not yet started, in time":                     {both, 0, 9999 * time.Millisecond, 0},
		"not started in time":                          {both, 0, 10 * time.Second, 10_000},
		"started in time":                              {both, 1, 59 * time.Second, 0},
		"started, but not ended in time":               {both, 1, time.Minute, 60_000},
		"the earlier of two counts":                    {job.Budgets{StartBy: 60_000, Total: 5000}, 0, 5 * time.Second, 5000},
		"two that are over at once are the total":      {job.Budgets{StartBy: 5000, Total: 5000}, 0, 5 * time.Second, 5000},
		"startup is an attempt's, and expires nothing": {job.Budgets{Startup: 1}, 0, time.Hour, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v, over := c.budgets.Expiry(at, c.attempt, at.Add(c.after))
			if over != (c.limit > 0) || v.Evidence.Limit != c.limit {
				t.Fatalf("over %v: %+v", over, v)
			}
			if over && (v.Blame != job.BlameNone || v.Reason != job.HasExpired || v.Evidence.Measured != float64(c.after.Milliseconds())) {
				t.Errorf("%+v", v)
			}
		})
	}
}
