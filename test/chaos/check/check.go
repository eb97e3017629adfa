package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Finding is a promise that was broken.
type Finding struct {
	// Rule is the promise in a word or two, Job whom it was broken to.
	Rule string `json:"rule"`
	Job  string `json:"job,omitempty"`
	Text string `json:"text"`
}

func (f Finding) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s", f.Rule, f.Job, f.Text))
}

// The promises.
const (
	RuleOneEnd     = "accepted = one terminal record"
	RuleFinal      = "a terminal record never changes"
	RuleTable      = "states change along the table"
	RuleAttempts   = "attempts strictly rise"
	RuleStale      = "no result from a stale attempt"
	RuleStuck      = "nothing is stuck after quiet"
	RuleKnown      = "no accepted id is answered 404"
	RuleUnknown    = "unknown ids are answered 404"
	RuleKeys       = "one key, one job"
	RulePhantom    = "no job without its ask"
	RuleAnswers    = "answers agree with the record"
	RuleVerdict    = "faults do not change verdicts"
	RuleTime       = "nothing happens before its time"
	RuleRecount    = "aggregates equal a recount"
	RuleExecutions = "one execution at a time, and its result"
	RuleQuiet      = "final means that nothing runs"
	RuleSeen       = "the checker sees what happens"
	RuleFence      = "only the leader releases"
	RuleResults    = "results tell each line once"
)

// Stats is what a history held, so that an empty one is not taken for a good one.
type Stats struct {
	Records, Revisions, Accepted, Repeats, Conflicts, Canceled, Removed int
	Executions, Retried, Lost, Dead, Expired, Batches, Releases         int
	Uploads, Items                                                      int
	// Gaps are revisions that nobody saw; a server that dies leaves such.
	Gaps int
}

// checker is a history put in order.
type checker struct {
	History
	stats    Stats
	findings []Finding

	chains   map[string][]Revision // by job, in order
	records  map[string]Record
	accepted map[string]Ask   // the first ask that was answered so, by job
	submits  map[string][]Ask // by label
	removed  map[string]time.Time
	cancels  map[string]bool // jobs that somebody asked to cancel
	process  map[string]Process
	runs     map[string][]Execution // by job, in order of start
	batchAsks
}

// Check lists the promises that a run broke.
func Check(h History) ([]Finding, Stats) {
	c := &checker{
		History: h,
		chains:  map[string][]Revision{}, records: map[string]Record{}, accepted: map[string]Ask{},
		submits: map[string][]Ask{}, removed: map[string]time.Time{}, cancels: map[string]bool{},
		process: map[string]Process{}, runs: map[string][]Execution{}, batchAsks: newBatchAsks(),
	}
	c.arrange()
	c.checkChains()
	c.checkRecords()
	c.checkAccepted()
	c.checkKeys()
	c.checkAnswers()
	c.checkBatches()
	c.checkObjects()
	c.checkReleases()
	c.checkSight()
	if h.Executions != nil {
		c.checkExecutions()
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Rule, b.Rule), strings.Compare(a.Job, b.Job))
	})
	return c.findings, c.stats
}

// checkSight wants to have seen enough: whoever sees nothing finds nothing.
func (c *checker) checkSight() {
	final := 0
	for _, r := range c.records {
		if r.Attempt > 0 {
			final++
		}
	}
	if c.stats.Revisions < 2*final || c.stats.Gaps > c.stats.Revisions/20+10 {
		c.found(RuleSeen, "", "%d revisions of %d records were told, and %d were not", c.stats.Revisions, len(c.records), c.stats.Gaps)
	}
	if final > 0 && (len(c.Leases) == 0 || len(c.Releases) == 0) {
		c.found(RuleSeen, "", "%d leases and %d releases were told", len(c.Leases), len(c.Releases))
	}
}

func (c *checker) found(rule, job, format string, args ...any) {
	c.findings = append(c.findings, Finding{Rule: rule, Job: job, Text: fmt.Sprintf(format, args...)})
}

// arrange sorts what was seen by job and by time.
func (c *checker) arrange() {
	type place struct {
		stream string
		seq    uint64
	}
	seen := map[place]bool{}
	for _, r := range c.Revisions {
		if p := (place{r.Stream, r.Seq}); !seen[p] {
			seen[p] = true
			c.chains[r.Job] = append(c.chains[r.Job], r)
		}
	}
	for _, chain := range c.chains {
		slices.SortFunc(chain, func(a, b Revision) int { return cmp.Compare(a.Seq, b.Seq) })
		c.stats.Revisions += len(chain)
	}
	for _, r := range c.Records {
		c.records[r.ID] = r
	}
	slices.SortStableFunc(c.Asks, func(a, b Ask) int { return a.Sent.Compare(b.Sent) })
	for _, a := range c.Asks {
		c.arrangeAsk(a)
	}
	c.arrangeUploads()
	for _, p := range c.Processes {
		c.process[p.Name] = p
	}
	for _, e := range c.Executions {
		c.runs[e.Job] = append(c.runs[e.Job], e)
	}
	for _, runs := range c.runs {
		slices.SortFunc(runs, func(a, b Execution) int { return a.Start.Compare(b.Start) })
	}
	c.stats.Records, c.stats.Executions, c.stats.Batches = len(c.records), len(c.Executions), len(c.Batches)
}

func (c *checker) arrangeAsk(a Ask) {
	switch a.Kind {
	case AskUpload, AskBatchCancel:
		c.arrangeBatchAsk(a)
	case AskSubmit, AskLine, AskItem:
		c.submits[a.Label] = append(c.submits[a.Label], a)
		if !a.OK() || a.JobID == "" {
			if a.Status == 409 {
				c.stats.Conflicts++
			}
			return
		}
		if a.Again {
			c.stats.Repeats++
		}
		if first, there := c.accepted[a.JobID]; !there || a.Got.Before(first.Got) {
			c.accepted[a.JobID] = a
		}
	case AskRemove:
		if at, there := c.removed[a.ID]; !there || a.Sent.Before(at) {
			c.removed[a.ID] = a.Sent
		}
	case AskCancel:
		c.cancels[a.ID] = true
	}
}
