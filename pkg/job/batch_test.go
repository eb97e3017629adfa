package job_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestItemsAreKnownByTheirIDs(t *testing.T) {
	const batch = "0198c0de-0000-7000-8000-0123456789ab"
	for id, want := range map[string]int{
		job.ItemID(batch, 0): 0, job.ItemID(batch, 999_999): 999_999, batch: -1, batch + "-01": -1, batch + "-": -1,
		"x-1": -1, batch + "-1234567890": -1, "0198C0DE-0000-7000-8000-0123456789AB-1": -1, batch + "-1\n": -1,
	} {
		got, index, ok := job.Item(id)
		if ok != (want >= 0) || ok && (got != batch || index != want) {
			t.Errorf("%q is item %d of %q, %v; want %d", id, index, got, ok, want)
		}
	}
}

func TestCountsOfABatchAddUp(t *testing.T) {
	var first, second, all job.BatchCounts
	for i := range 30 {
		f := job.Failure{ID: job.ItemID("b", i), State: job.Succeeded, Blame: job.BlameNone, Reason: job.Exited}
		if i%2 == 1 {
			f.State, f.Blame = job.Failed, job.BlameProgram
		}
		if i < 13 {
			first.Add(f)
		} else {
			second.Add(f)
		}
		all.Add(f)
	}
	sum := first.Plus(second)
	if sum.Ended() != 30 || sum.States[job.Failed] != 15 || len(sum.Verdicts) != 2 || sum.Verdicts[0] != all.Verdicts[0] || sum.Verdicts[1] != all.Verdicts[1] {
		t.Errorf("got %+v, want %+v", sum, all)
	}
	if len(sum.Failures) != 10 || sum.Failures[9] != all.Failures[9] {
		t.Errorf("first failures are %+v, want %+v", sum.Failures, all.Failures)
	}
	if first.Ended() != 13 || len(first.Failures) != 6 {
		t.Errorf("a summand has changed: %+v", first)
	}
}

func TestCriteriaOfSuccessJudgeABatch(t *testing.T) {
	counts := job.BatchCounts{States: map[job.State]int{job.Succeeded: 8, job.Failed: 2}, Groups: 3}
	for name, c := range map[string]struct {
		criteria job.Success
		want     string
	}{
		"enough passed":    {job.Success{MinPassed: 8}, job.OutcomePassed},
		"one too few":      {job.Success{MinPassed: 9}, job.OutcomeFailed},
		"the ratio is met": {job.Success{MinPassedRatio: 0.8}, job.OutcomePassed},
		"refused count":    {job.Success{MinPassedRatio: 0.81}, job.OutcomeFailed},
		"groups are met":   {job.Success{MinGroups: 3, MinPassed: 1}, job.OutcomePassed},
		"one of two":       {job.Success{MinGroups: 4, MinPassed: 1}, job.OutcomeFailed},
	} {
		if got, why := c.criteria.Judge(counts, 10); got != c.want || why == "" {
			t.Errorf("%s: %s (%s), want %s", name, got, why, c.want)
		}
	}
}
