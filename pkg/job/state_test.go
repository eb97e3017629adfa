package job_test

import (
	"errors"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestFinalStatesNeverChange(t *testing.T) {
	for _, from := range job.States() {
		if !from.Final() {
			continue
		}
		for _, event := range job.Events() {
			for _, to := range job.States() {
				for attempt := range 4 {
					if err := job.Change(from, 2, event, attempt, to); !errors.Is(err, job.ErrStale) {
						t.Errorf("%s of attempt %d took a job from %s to %s: %v", event, attempt, from, to, err)
					}
				}
			}
		}
	}
}

func TestChangeAcceptsOnlyTheRightAttempt(t *testing.T) {
	cases := map[string]struct {
		from    job.State
		current int
		event   job.Event
		attempt int
		to      job.State
		ok      bool
	}{
		"first claim":                          {job.Queued, 0, job.EventClaim, 1, job.Running, true},
		"claim skips an attempt":               {job.Queued, 0, job.EventClaim, 2, job.Running, false},
		"claim after a retry":                  {job.Retrying, 1, job.EventClaim, 2, job.Running, true},
		"take-over from a lost worker":         {job.Running, 1, job.EventClaim, 2, job.Running, true},
		"the same claim twice":                 {job.Running, 1, job.EventClaim, 1, job.Running, false},
		"nobody claims what is being canceled": {job.Canceling, 1, job.EventClaim, 2, job.Running, false},
		"finish of the running attempt":        {job.Running, 2, job.EventFinish, 2, job.Succeeded, true},
		"finish of a stale attempt":            {job.Running, 2, job.EventFinish, 1, job.Succeeded, false},
		"finish of what does not run":          {job.Queued, 0, job.EventFinish, 0, job.Succeeded, false},
		"a canceling job cannot succeed":       {job.Canceling, 1, job.EventFinish, 1, job.Succeeded, false},
		"a canceling job ends canceled":        {job.Canceling, 1, job.EventFinish, 1, job.Canceled, true},
		"finish must be final":                 {job.Running, 1, job.EventFinish, 1, job.Retrying, false},
		"retry of the running attempt":         {job.Running, 1, job.EventRetry, 1, job.Retrying, true},
		"retry of a stale attempt":             {job.Running, 2, job.EventRetry, 1, job.Retrying, false},
		"cancel while queued":                  {job.Queued, 0, job.EventCancel, 0, job.Canceled, true},
		"cancel while running":                 {job.Running, 1, job.EventCancel, 0, job.Canceling, true},
		"cancel must not skip the sandbox":     {job.Running, 1, job.EventCancel, 0, job.Canceled, false},
		"cancel twice":                         {job.Canceling, 1, job.EventCancel, 0, job.Canceling, false},
		"expiry while waiting":                 {job.Retrying, 1, job.EventExpire, 0, job.Expired, true},
		"spill while queued":                   {job.Queued, 0, job.EventSpill, 0, job.Queued, true},
		"spill between attempts":               {job.Retrying, 1, job.EventSpill, 0, job.Retrying, true},
		"a running job does not spill":         {job.Running, 1, job.EventSpill, 0, job.Running, false},
		"spill is no retry":                    {job.Queued, 0, job.EventSpill, 0, job.Retrying, false},
		"a running job does not expire":        {job.Running, 1, job.EventExpire, 0, job.Expired, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := job.Change(c.from, c.current, c.event, c.attempt, c.to)
			if (err == nil) != c.ok {
				t.Fatalf("got %v, want allowed %v", err, c.ok)
			}
			if err != nil && !errors.Is(err, job.ErrStale) {
				t.Fatalf("%v is not ErrStale", err)
			}
		})
	}
}

func TestEveryStateCanEnd(t *testing.T) {
	for _, from := range job.States() {
		if from.Final() {
			continue
		}
		if !reachesFinal(from, map[job.State]bool{}) {
			t.Errorf("no way out of %s", from)
		}
	}
}

func reachesFinal(from job.State, seen map[job.State]bool) bool {
	if from.Final() {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	for _, event := range job.Events() {
		for _, to := range job.States() {
			for _, attempt := range []int{1, 2} {
				if job.Change(from, 1, event, attempt, to) == nil && reachesFinal(to, seen) {
					return true
				}
			}
		}
	}
	return false
}
