package check

import "time"

const (
	// slack is what a busy machine may add between what a process does and
	// what it writes down.
	slack = 1500 * time.Millisecond
	// waking is how long a process that was stopped may take, once it goes on,
	// to find out what it has missed.
	waking = 3 * time.Second
)

// checkExecutions compares the records with what really ran.
func (c *checker) checkExecutions() {
	for id, runs := range c.runs {
		c.checkRuns(id, runs)
	}
	byID := map[string]Execution{}
	for _, e := range c.Executions {
		byID[e.ID] = e
	}
	for id, r := range c.records {
		if r.State != "succeeded" && r.State != "failed" || r.Result == nil {
			continue
		}
		e, there := byID[r.output()]
		switch {
		case !there:
			c.found(RuleExecutions, id, "is %s, with a result of no execution: %q", r.State, r.output())
		case e.Job != id || e.Attempt != r.Attempt || e.Worker != r.Worker:
			c.found(RuleStale, id, "ended in attempt %d at %s with the result of execution %s: job %s, attempt %d at %s",
				r.Attempt, r.Worker, e.ID, e.Job, e.Attempt, e.Worker)
		case !e.Complete:
			c.found(RuleExecutions, id, "is %s with the result of execution %s, which came to no end", r.State, e.ID)
		}
	}
}

// checkRuns looks at the executions of one job: one at a time, one per
// attempt, none after the end.
func (c *checker) checkRuns(id string, runs []Execution) {
	if c.again(id) {
		return // of two jobs
	}
	attempts := map[int]string{}
	for i, e := range runs {
		if other, twice := attempts[e.Attempt]; twice {
			c.found(RuleExecutions, id, "attempt %d was executed as %s and as %s", e.Attempt, other, e.ID)
		}
		attempts[e.Attempt] = e.ID
		for _, later := range runs[i+1:] {
			if c.runsAt(e, later.Start) {
				c.found(RuleExecutions, id, "attempt %d began at %s in %s while attempt %d still ran in %s (until %s)",
					later.Attempt, later.Start.Format(clock), later.Process, e.Attempt, e.Process, c.end(e).Format(clock))
			}
		}
	}
	chain := c.chains[id]
	for _, now := range chain {
		if !final[now.State] {
			continue
		}
		for _, e := range runs {
			if e.Start.After(now.At.Add(slack)) {
				c.found(RuleQuiet, id, "was %s at %s, and attempt %d began at %s in %s", now.State, now.At.Format(clock), e.Attempt, e.Start.Format(clock), e.Process)
			} else if c.runsAt(e, now.At) {
				c.found(RuleQuiet, id, "was %s at %s while attempt %d ran in %s until %s", now.State, now.At.Format(clock), e.Attempt, e.Process, c.end(e).Format(clock))
			}
		}
		break
	}
}

// end is when an execution was over at the latest: its process may have died.
func (c *checker) end(e Execution) time.Time {
	if !e.End.IsZero() {
		return e.End
	}
	if died := c.process[e.Process].Died; !died.IsZero() {
		return died
	}
	return e.Start.AddDate(1, 0, 0)
}

// runsAt reports whether an execution ran at a moment, and went on so long
// after it that no clock explains it. What a stopped process holds does not
// run; once it goes on it may take a moment to find out.
func (c *checker) runsAt(e Execution, at time.Time) bool {
	end := c.end(e)
	if !e.Start.Before(at) || !end.After(at.Add(slack)) {
		return false
	}
	for _, p := range c.process[e.Process].Pauses {
		to := p.To
		if to.IsZero() {
			to = end
		}
		if !at.Before(p.From.Add(-slack)) && !at.After(to.Add(slack)) && !end.After(to.Add(waking)) {
			return false
		}
	}
	return true
}
