package check

import (
	"slices"
	"strings"
	"time"
)

// final lists the states that a job never leaves.
var final = map[string]bool{"succeeded": true, "failed": true, "canceled": true, "expired": true, "dead": true}

// step is what a change of state asks of the attempt's number.
type step int

const (
	same step = iota // the attempt goes on, or is ended
	next             // it is the one after
)

// table is which state may follow which; "" is no record.
var table = map[string]map[string]step{
	"":       {"queued": same},
	"queued": {"running": next, "canceled": same, "expired": same},
	"running": {
		"running": next, "canceling": same, "retrying": same,
		"succeeded": same, "failed": same, "dead": same, "expired": same,
	},
	"canceling": {"canceled": same},
	"retrying":  {"running": next, "canceled": same, "expired": same},
}

// checkChains follows every record through its revisions.
func (c *checker) checkChains() {
	for id, chain := range c.chains {
		before := Revision{}
		for i, now := range chain {
			gap := now.Last != before.Seq && i > 0 || i == 0 && now.Last != 0
			if gap {
				c.stats.Gaps++
			}
			c.follow(id, before, now, gap)
			before = now
		}
	}
}

// follow judges one change. After a gap nobody knows what came between, but
// some things never happen however much did.
func (c *checker) follow(id string, before, now Revision, gap bool) {
	if final[before.State] && !now.Removed {
		c.found(RuleFinal, id, "was %s (attempt %d) at %d and %s (attempt %d) at %d", before.State, before.Attempt, before.Seq, now.State, now.Attempt, now.Seq)
		return
	}
	if now.Removed {
		_, asked := c.removed[id]
		if _, item := c.items[id]; item { // its batch keeps it from then on
			asked = final[before.State] || gap
		}
		if !asked {
			c.found(RuleFinal, id, "%s at %d, then removed at %d although nobody asked", before.State, before.Seq, now.Seq)
		} else if before.State != "" && !final[before.State] && !gap {
			c.found(RuleTable, id, "removed at %d while it was %s", now.Seq, before.State)
		}
		c.stats.Removed++
		return
	}
	_, item := c.items[id]
	if before.Removed {
		if item {
			c.found(RuleFinal, id, "had ended and was forgotten at %d, and is %s at %d", before.Seq, now.State, now.Seq)
		}
		before = Revision{}
	}
	if now.Attempt < before.Attempt {
		c.found(RuleAttempts, id, "attempt %d at %d after attempt %d at %d", now.Attempt, now.Seq, before.Attempt, before.Seq)
		return
	}
	c.note(now)
	c.checkTime(id, now)
	if gap {
		return
	}
	how, allowed := table[before.State][now.State]
	if item && before.State == "" && now.State == "canceled" {
		allowed = true // before its turn
	}
	switch {
	case !allowed:
		c.found(RuleTable, id, "%q at %d became %q at %d", before.State, before.Seq, now.State, now.Seq)
	case how == next && now.Attempt != before.Attempt+1:
		c.found(RuleAttempts, id, "attempt %d was claimed at %d after attempt %d", now.Attempt, now.Seq, before.Attempt)
	case how == same && now.Attempt != before.Attempt:
		c.found(RuleAttempts, id, "attempt %d became %d at %d, when it was not claimed but %s", before.Attempt, now.Attempt, now.Seq, now.State)
	case (before.State == "running" || before.State == "canceling") && how == same && now.Life != before.Life:
		c.found(RuleStale, id, "attempt %d was claimed by life %s and ended at %d in the name of life %s", before.Attempt, before.Life, now.Seq, now.Life)
	}
}

func (c *checker) note(now Revision) {
	switch now.State {
	case "retrying":
		c.stats.Retried++
	case "dead":
		c.stats.Dead++
	case "expired":
		c.stats.Expired++
	case "canceled":
		c.stats.Canceled++
	}
}

// maxFaults is how many attempts the platform may fail or lose.
const maxFaults = 5

// checkRecords looks at the records that are left at the end.
func (c *checker) checkRecords() {
	for id, r := range c.records {
		if !final[r.State] {
			c.found(RuleStuck, id, "is %s (attempt %d, worker %q) at the end; asked by %s", r.State, r.Attempt, r.Worker, r.Labels[LabelAsk])
			continue
		}
		if r.Result == nil {
			c.found(RuleOneEnd, id, "is %s without a result", r.State)
			continue
		}
		if chain := c.chains[id]; len(chain) > 0 && r.Seq > 0 {
			last := chain[len(chain)-1]
			if _, item := c.items[id]; item && last.Removed {
				last, _ = c.final(id)
			}
			if last.Seq > r.Seq || last.Seq == r.Seq && (last.State != r.State || last.Attempt != r.Attempt || last.Life != r.Life) {
				c.found(RuleFinal, id, "lies at %d as %s, but was told at %d to be %s", r.Seq, r.State, last.Seq, last.State)
			}
		}
		c.checkAttempts(r)
		c.checkVerdict(r)
	}
}

// checkAttempts compares a record's attempts with its count, and with the
// claims that were seen.
func (c *checker) checkAttempts(r Record) {
	if len(r.Attempts) != r.Attempt {
		c.found(RuleAttempts, r.ID, "remembers %d attempts of %d", len(r.Attempts), r.Attempt)
		return
	}
	faults := 0
	for i, a := range r.Attempts {
		switch {
		case a.Number != i+1:
			c.found(RuleAttempts, r.ID, "has number %d in place %d", a.Number, i+1)
		case a.Outcome == "":
			c.found(RuleAttempts, r.ID, "does not know how attempt %d ended", a.Number)
		case a.Outcome == "finished" && i+1 < len(r.Attempts):
			c.found(RuleOneEnd, r.ID, "attempt %d finished, and attempt %d followed", a.Number, a.Number+1)
		case a.Outcome == "fault" || a.Outcome == "lost":
			faults++
		}
		if a.Outcome == "lost" {
			c.stats.Lost++
		}
	}
	if faults > maxFaults {
		c.found(RuleAttempts, r.ID, "had %d attempts that the platform failed", faults)
	}
	for _, claimed := range c.chains[r.ID] {
		if claimed.State == "running" && claimed.Attempt <= len(r.Attempts) && claimed.Attempt > 0 &&
			r.Attempts[claimed.Attempt-1].Worker != claimed.Worker && !c.again(r.ID) {
			c.found(RuleStale, r.ID, "attempt %d was claimed by %s and stands there as %s's", claimed.Attempt, claimed.Worker, r.Attempts[claimed.Attempt-1].Worker)
		}
	}
	last := len(r.Attempts) - 1
	if (r.State == "succeeded" || r.State == "failed") && (last < 0 || r.Attempts[last].Outcome != "finished") {
		c.found(RuleOneEnd, r.ID, "is %s, but no attempt finished", r.State)
	}
}

// again reports whether a job was removed and submitted anew, so that its
// claims are of two jobs.
func (c *checker) again(id string) bool {
	if _, item := c.items[id]; item {
		return false // its end is forgotten once its batch keeps it
	}
	return slices.ContainsFunc(c.chains[id], func(r Revision) bool { return r.Removed })
}

// checkVerdict compares how a job ended with what its program does.
func (c *checker) checkVerdict(r Record) {
	asks := c.submits[r.Labels[LabelAsk]]
	if len(asks) == 0 {
		c.found(RulePhantom, r.ID, "has the label %q, which nobody asked for", r.Labels[LabelAsk])
		return
	}
	faults := 0
	for _, a := range r.Attempts {
		if a.Outcome == "fault" || a.Outcome == "lost" {
			faults++
		}
	}
	switch want := asks[0].Want; {
	case r.State == want:
	case r.State == "canceled" && (c.cancels[r.ID] || c.mayCancel(r.ID)):
	case r.State == "expired" && asks[0].Budget > 0:
	case r.State == "dead" && faults == maxFaults && r.Result.Verdict.Blame == "platform":
	default:
		c.found(RuleVerdict, r.ID, "is %s (%s, %s) after %d attempts of which the platform failed %d; its program leads to %s, cancel asked: %v",
			r.State, r.Result.Verdict.Blame, r.Result.Verdict.Reason, r.Attempt, faults, want, c.cancels[r.ID])
	}
}

// early is by how much clocks may differ, of one machine and of its timers.
const early = 50 * time.Millisecond

// checkTime compares a change with the times that were asked for.
func (c *checker) checkTime(id string, now Revision) {
	asks := c.submits[now.Ask]
	if len(asks) == 0 {
		return
	}
	a := asks[0]
	if now.State == "running" && now.At.Before(a.NotBefore.Add(-early)) {
		c.found(RuleTime, id, "was claimed at %s, and is not to run before %s", now.At.Format(clock), a.NotBefore.Format(clock))
	}
	if now.State == "expired" && a.Budget > 0 && now.At.Before(a.Sent.Add(a.Budget-early)) {
		c.found(RuleTime, id, "expired at %s, %s after it was first asked for; its budget is %s", now.At.Format(clock), now.At.Sub(a.Sent), a.Budget)
	}
}

// output is the beginning of what the job printed.
func (r Record) output() string {
	if r.Result == nil || len(r.Result.Steps) == 0 {
		return ""
	}
	line, _, _ := strings.Cut(r.Result.Steps[0].Stdout.Text, "\n")
	return line
}
