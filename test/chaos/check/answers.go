package check

import "maps"

// checkAccepted wants a record for every job that was accepted, and an ask
// for every record.
func (c *checker) checkAccepted() {
	c.stats.Accepted = len(c.accepted)
	for id, a := range c.accepted {
		if _, there := c.records[id]; there {
			continue
		}
		if _, asked := c.removed[id]; !asked {
			c.found(RuleOneEnd, id, "was accepted (ask %d at %s, state %s) and has no record", a.N, a.Got.Format(clock), a.State)
		}
	}
	from := map[string]string{}
	for id, r := range c.records {
		label := r.Labels[LabelAsk]
		if other, there := from[label]; there {
			c.found(RulePhantom, id, "came of ask %s, as did %s", label, other)
		}
		from[label] = id
	}
}

// clock is how times are written in findings.
const clock = "15:04:05.000"

// checkKeys wants one job of one key, and a conflict for another body.
func (c *checker) checkKeys() {
	type key struct{ tenant, batch, key string }
	jobs, bodies := map[key]string{}, map[key]string{}
	for _, a := range c.Asks {
		if !a.submits() || a.Key == "" || !a.OK() {
			continue
		}
		k := key{a.Tenant, a.Batch, a.Key}
		if id, there := jobs[k]; there && id != a.JobID {
			c.found(RuleKeys, a.JobID, "is the answer to ask %d with key %q, which was %s before", a.N, a.Key, id)
		}
		jobs[k] = a.JobID
		if _, gone := c.removed[a.JobID]; gone {
			continue // the key is free again
		}
		if body, there := bodies[k]; there && body != a.Body {
			c.found(RuleKeys, a.JobID, "ask %d with key %q and another body was answered %d", a.N, a.Key, a.Status)
		}
		bodies[k] = a.Body
	}
	for _, a := range c.Asks {
		if a.submits() && a.Key != "" && a.Status == 409 && bodies[key{a.Tenant, a.Batch, a.Key}] == a.Body {
			c.found(RuleKeys, "", "ask %d repeated key %q with its own body and was answered 409", a.N, a.Key)
		}
	}
}

// checkAnswers compares what clients were told with what is true.
func (c *checker) checkAnswers() {
	for _, a := range c.Asks {
		switch {
		case a.Kind == AskNothing:
			if a.Status != 404 && a.Status != 0 && a.Status < 500 {
				c.found(RuleUnknown, a.ID, "never was, but ask %d was answered %d %s", a.N, a.Status, a.State)
			}
			continue
		case a.ofBatch():
			if opened, there := c.opened[a.ID]; a.Status == 404 && there && a.Sent.After(opened) {
				c.found(RuleKnown, a.ID, "the batch was complete at %s, and %s of it (ask %d) at %s was answered 404", opened.Format(clock), a.Kind, a.N, a.Sent.Format(clock))
			}
			continue
		case a.submits():
			c.checkTold(a, a.JobID)
			continue
		}
		if a.Status == 404 {
			first, accepted := c.accepted[a.ID]
			gone, removed := c.removed[a.ID]
			if accepted && a.Sent.After(first.Got) && (!removed || a.Got.Before(gone)) {
				c.found(RuleKnown, a.ID, "was accepted at %s, and %s of it (ask %d) at %s was answered 404", first.Got.Format(clock), a.Kind, a.N, a.Sent.Format(clock))
			}
			continue
		}
		c.checkTold(a, a.ID)
	}
}

// checkTold compares one answer that tells a state with how the job ended.
func (c *checker) checkTold(a Ask, id string) {
	r, there := c.records[id]
	if !a.OK() || a.State == "" || !there || c.again(id) {
		return
	}
	switch {
	case a.State == "rejected" || table[a.State] == nil && !final[a.State]:
		c.found(RuleAnswers, id, "ask %d was told the state %q", a.N, a.State)
	case a.Attempt > r.Attempt:
		c.found(RuleAnswers, id, "ask %d was told of attempt %d; there were %d", a.N, a.Attempt, r.Attempt)
	case final[a.State] && a.State != r.State:
		c.found(RuleAnswers, id, "ask %d was told that it is %s; it is %s", a.N, a.State, r.State)
	case a.State == "canceling" && final[r.State] && r.State != "canceled":
		c.found(RuleAnswers, id, "ask %d was told that it is canceling; it is %s", a.N, r.State)
	}
}

// checkBatches counts the records of each batch anew.
func (c *checker) checkBatches() {
	type count struct {
		jobs, final int
		states      map[string]int
	}
	recount := map[string]count{}
	for _, r := range c.records {
		if r.Batch == "" {
			continue
		}
		n := recount[r.Batch]
		if n.states == nil {
			n.states = map[string]int{}
		}
		n.jobs++
		n.states[r.State]++
		if final[r.State] {
			n.final++
		}
		recount[r.Batch] = n
	}
	for _, b := range c.Batches {
		n, known := recount[b.ID]
		if !known {
			if b.Status != 404 {
				c.found(RuleRecount, "", "batch %s is answered %d by %s, and no record is of it", b.ID, b.Status, b.From)
			}
			continue
		}
		told := maps.Clone(b.States)
		maps.DeleteFunc(told, func(_ string, n int) bool { return n == 0 })
		if b.Status != 200 || b.Jobs != n.jobs || b.Final != n.final || !maps.Equal(told, n.states) {
			c.found(RuleRecount, "", "batch %s is told by %s (%d) as %d jobs, %d final, %v; there are %d, %d, %v",
				b.ID, b.From, b.Status, b.Jobs, b.Final, b.States, n.jobs, n.final, n.states)
		}
	}
}

// Recount compares what the API says of batches with the records.
func Recount(records []Record, batches []Batch) []Finding {
	c := &checker{History: History{Batches: batches}, records: map[string]Record{}}
	for _, r := range records {
		c.records[r.ID] = r
	}
	c.checkBatches()
	return c.findings
}

// checkReleases wants every hint in READY to name the lease that stood when
// it came there: nobody releases who has been deposed.
func (c *checker) checkReleases() {
	c.stats.Releases = len(c.Releases)
	for _, r := range c.Releases {
		if r.Follows {
			continue
		}
		if r.Fence == 0 {
			c.found(RuleFence, r.Job, "was released at %d without a fence", r.Seq)
			continue
		}
		for _, l := range c.Leases {
			if l.Seq > r.Fence && l.Seq < r.Seq {
				c.found(RuleFence, r.Job, "was released at %d under the lease of %d; that of %d stood", r.Seq, r.Fence, l.Seq)
				break
			}
		}
	}
}
