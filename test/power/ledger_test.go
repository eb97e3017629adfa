package main

import (
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

type judgement struct {
	jobs     []entry
	records  map[string]check.Record
	claim    claim
	findings int
}

// judgements are losses of one job, and how many findings each is.
func judgements(cut time.Time) map[string]judgement {
	ago := func(d time.Duration) time.Time { return cut.Add(-d) }
	lately, before := ago(300*time.Millisecond), ago(10*time.Second)
	balanced, strict := claims[queue.Balanced], claims[queue.Strict]
	at := func(seq uint64, state string) map[string]check.Record {
		return map[string]check.Record{"a": {ID: "a", Seq: seq, State: state}}
	}
	nothing := map[string]check.Record{}
	revision := func(seq uint64, state string, at time.Time) check.Revision {
		return check.Revision{Job: "a", Seq: seq, State: state, At: at}
	}
	young := entry{id: "a", sent: lately, accepted: lately, told: []check.Revision{revision(7, "queued", lately)}}
	old := entry{id: "a", sent: before, accepted: before, told: []check.Revision{revision(7, "queued", before)}}
	touched := old
	touched.told = []check.Revision{revision(7, "queued", before), revision(9, "running", lately)}
	answered := touched
	answered.told = append(answered.told[:2:2], revision(12, "succeeded", lately))
	answered.result, answered.answered = "a result", lately
	settled := entry{id: "a", sent: before, accepted: before, base: &check.Record{ID: "a", Seq: 12, State: "succeeded"}, result: "a result"}
	unheard := entry{id: "a", sent: before, accepted: before}
	return map[string]judgement{
		"all is there":                                {[]entry{answered}, at(12, "succeeded"), strict, 0},
		"a later change that nobody was told of":      {[]entry{touched}, at(12, "succeeded"), strict, 0},
		"strict, an acknowledged job is gone":         {[]entry{young}, nothing, strict, 1},
		"strict, a result is gone":                    {[]entry{answered}, at(9, "running"), strict, 1},
		"strict, a claim that no client was told of":  {[]entry{touched}, at(7, "queued"), strict, 0},
		"balanced, a young job is gone":               {[]entry{young}, nothing, balanced, 0},
		"balanced, an old job is gone":                {[]entry{old}, nothing, balanced, 1},
		"balanced, an old job changed lately is back": {[]entry{touched}, at(7, "queued"), balanced, 0},
		"balanced, a young result is gone":            {[]entry{answered}, at(9, "running"), balanced, 0},
		"balanced, what survived a loss before":       {[]entry{settled}, nothing, balanced, 1},
		"balanced, only its client knew of it":        {[]entry{unheard}, nothing, balanced, 1},
	}
}

// TestJudgeKnowsWhatALossMayTake feeds the judge with made-up losses.
func TestJudgeKnowsWhatALossMayTake(t *testing.T) {
	cut := time.Now()
	for name, c := range judgements(cut) {
		l := newLedger()
		for _, e := range c.jobs {
			l.jobs[e.id] = &e
		}
		l.judge(c.records, cut, c.claim)
		if len(l.findings) != c.findings {
			t.Errorf("%s: %q", name, l.findings)
		}
	}
}
