package check

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// Upload is a batch that was asked for as an object.
type Upload struct {
	ID, Tenant string
	Lines      []Line
	// StopAfter is how many of a group are enough; 0: all run.
	StopAfter int
}

// Line is one line of an upload. Refused: no job comes of it.
type Line struct {
	Key, Group, Label string
	Refused           bool
}

// Object is what one scheduler says of such a batch at the end.
type Object struct {
	From   string         `json:"-"`
	Status int            `json:"-"` // of the HTTP answer
	ID     string         `json:"id"`
	State  string         `json:"state"`
	Lines  int            `json:"lines"`
	Jobs   int            `json:"jobs"`
	Final  int            `json:"final"`
	States map[string]int `json:"states"`

	Rejected int       `json:"rejected"`
	Groups   int       `json:"groups_passed"`
	Verdicts []Verdict `json:"verdicts"`
}

// Verdict is how many jobs ended with one verdict.
type Verdict struct {
	Blame  string `json:"blame"`
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// Results is what one client was told of the results of a batch.
type Results struct {
	From, ID string
	Told     []Result
	// Trouble says why the stream did not come to its end; empty if it did.
	Trouble string
}

// Result is a line of it: a record, or the number of a line that was refused.
type Result struct {
	Line   int
	Record Record
	Cursor string
}

// DecodeResult reads a line of results.
func DecodeResult(line []byte, tenant string) (Result, error) {
	r := Result{Record: Record{Tenant: tenant}}
	var more struct {
		Line    int             `json:"line"`
		Cursor  string          `json:"cursor"`
		Verdict json.RawMessage `json:"verdict"`
		Steps   json.RawMessage `json:"steps"`
	}
	for _, into := range []any{&r.Record, &more} {
		if err := json.Unmarshal(line, into); err != nil {
			return r, fmt.Errorf("result %q: %w", line, err)
		}
	}
	r.Line, r.Cursor, r.Record.Attempt = more.Line, more.Cursor, len(r.Record.Attempts)
	if more.Verdict == nil {
		return r, nil
	}
	if more.Steps == nil {
		more.Steps = json.RawMessage("[]")
	}
	result, err := json.Marshal(map[string]json.RawMessage{"verdict": more.Verdict, "steps": more.Steps})
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(result, &r.Record.Result)
}

// item is a job that is one of a batch.
type item struct {
	upload *Upload
	group  string
}

// arrangeUploads finds the jobs that uploads are to become, and takes records
// that are in no stream any more from what the results tell.
func (c *checker) arrangeUploads() {
	for i := range c.Uploads {
		u := &c.Uploads[i]
		n := 0
		for _, l := range u.Lines {
			if !l.Refused {
				c.items[fmt.Sprintf("%s-%d", u.ID, n)] = item{u, l.Group}
				n++
			}
		}
	}
	for _, told := range c.Results {
		for _, r := range told.Told {
			if _, there := c.records[r.Record.ID]; !there && r.Line == 0 {
				c.records[r.Record.ID] = r.Record
			}
		}
	}
	c.stats.Uploads, c.stats.Items = len(c.Uploads), len(c.items)
}

// checkObjects counts the records of each batch anew and compares that with
// what schedulers say of it.
func (c *checker) checkObjects() {
	uploads := map[string]*Upload{}
	for i := range c.Uploads {
		uploads[c.Uploads[i].ID] = &c.Uploads[i]
	}
	for _, o := range c.Objects {
		u := uploads[o.ID]
		opened, accepted := c.opened[o.ID]
		switch {
		case o.Status != 200 && accepted:
			c.found(RuleKnown, o.ID, "the batch was complete at %s and is answered %d by %s", opened.Format(clock), o.Status, o.From)
		case o.Status != 200:
		case !accepted && o.State == "uploading":
			c.checkIdle(u)
		case o.State != "finished" && o.State != "canceled":
			c.found(RuleStuck, o.ID, "the batch is %s at the end by %s, with %d of %d jobs final", o.State, o.From, o.Final, o.Jobs)
		default:
			c.checkObject(o, u)
		}
	}
	for _, told := range c.Results {
		c.checkResults(told, uploads[told.ID])
	}
}

// checkIdle wants no job of a batch whose upload is not complete.
func (c *checker) checkIdle(u *Upload) {
	for id, one := range c.items {
		if one.upload == u && len(c.chains[id]) > 0 {
			c.found(RulePhantom, id, "has a record, and its batch is not complete")
		}
	}
}

func (c *checker) checkObject(o Object, u *Upload) {
	if asked, told := c.batchCancels[o.ID], c.batchCanceling[o.ID]; o.State == "canceled" && asked.IsZero() || o.State != "canceled" && told {
		c.found(RuleAnswers, o.ID, "the batch is %s by %s; cancel asked: %v, told that it is canceling: %v", o.State, o.From, !asked.IsZero(), told)
	}
	want := Object{Lines: len(u.Lines), States: map[string]int{}}
	verdicts, groups := map[Verdict]int{}, map[string]int{}
	for _, l := range u.Lines {
		if l.Refused {
			want.Rejected++
		} else {
			want.Jobs++
		}
	}
	for id, one := range c.items {
		r, there := c.records[id]
		if one.upload != u || !there {
			continue
		}
		want.States[r.State]++
		if r.Result != nil {
			verdicts[Verdict{Blame: r.Result.Verdict.Blame, Reason: r.Result.Verdict.Reason}]++
		}
		if r.State == "succeeded" && u.StopAfter > 0 {
			if groups[one.group]++; groups[one.group] == u.StopAfter {
				want.Groups++
			}
		}
	}
	told := map[Verdict]int{}
	for _, v := range o.Verdicts {
		told[Verdict{Blame: v.Blame, Reason: v.Reason}] += v.Count
	}
	states := maps.Clone(o.States)
	maps.DeleteFunc(states, func(_ string, n int) bool { return n == 0 })
	if o.Lines != want.Lines || o.Rejected != want.Rejected || o.Jobs != want.Jobs || o.Final != want.Jobs || o.Groups != want.Groups ||
		!maps.Equal(states, want.States) || !maps.Equal(told, verdicts) {
		c.found(RuleRecount, o.ID, "the batch is told by %s as %d lines, %d rejected, %d jobs, %d final, %d groups, %v, %v; there are %d, %d, %d, %d, %d, %v, %v",
			o.From, o.Lines, o.Rejected, o.Jobs, o.Final, o.Groups, states, told, want.Lines, want.Rejected, want.Jobs, want.Jobs, want.Groups, want.States, verdicts)
	}
}

// checkResults wants every line of a batch told once, and as it is.
func (c *checker) checkResults(told Results, u *Upload) {
	if u == nil {
		return
	}
	if told.Trouble != "" {
		c.found(RuleResults, told.ID, "the results told by %s came to no end: %s", told.From, told.Trouble)
		return
	}
	lines, jobs := map[int]int{}, map[string]int{}
	for _, r := range told.Told {
		if r.Line > 0 {
			lines[r.Line]++
			continue
		}
		id := r.Record.ID
		jobs[id]++
		c.compare(told, r.Record)
	}
	n := 0
	for i, l := range u.Lines {
		times := lines[i+1]
		if !l.Refused {
			times = jobs[fmt.Sprintf("%s-%d", u.ID, n)]
			n++
		}
		if times != 1 {
			c.found(RuleResults, told.ID, "line %d, key %s, is told %d times by %s", i+1, l.Key, times, told.From)
		}
		delete(lines, i+1)
		delete(jobs, fmt.Sprintf("%s-%d", u.ID, n-1))
	}
	if len(lines)+len(jobs) > 0 {
		c.found(RuleResults, told.ID, "%s tells of lines %v and jobs %v, which the batch has not", told.From, lines, jobs)
	}
}

// compare compares a result with the record that it is told of.
func (c *checker) compare(told Results, r Record) {
	if !final[r.State] {
		c.found(RuleResults, r.ID, "%s tells it as %s, which is no end", told.From, r.State)
	}
	if other := c.records[r.ID]; other.State != r.State || other.Attempt != r.Attempt || other.output() != r.output() {
		c.found(RuleResults, r.ID, "%s tells it as %s of attempt %d (%q); it is %s of attempt %d (%q)", told.From, r.State, r.Attempt, r.output(), other.State, other.Attempt, other.output())
	}
	last, seen := c.final(r.ID)
	if seen && (last.State != r.State || last.Attempt != r.Attempt || last.Worker != r.Worker) {
		c.found(RuleResults, r.ID, "%s tells it as %s of attempt %d at %q; its record was %s of attempt %d at %q", told.From, r.State, r.Attempt, r.Worker, last.State, last.Attempt, last.Worker)
	}
}

// final is the first final revision of a job.
func (c *checker) final(id string) (Revision, bool) {
	for _, r := range c.chains[id] {
		if final[r.State] {
			return r, true
		}
	}
	return Revision{}, false
}

// mayCancel reports whether an item may have ended as canceled although
// nobody asked for that: with its batch, or since its group had enough.
func (c *checker) mayCancel(id string) bool {
	one, is := c.items[id]
	if !is {
		return false
	}
	end, seen := c.final(id)
	if asked := c.batchCancels[one.upload.ID]; !asked.IsZero() && (!seen || !end.At.Before(asked.Add(-early))) {
		return true
	}
	if one.upload.StopAfter == 0 {
		return false
	}
	passed := 0
	for other, it := range c.items {
		if it != one || c.records[other].State != "succeeded" {
			continue
		}
		if at, known := c.final(other); !seen || !known || at.At.Before(end.At.Add(early)) {
			passed++
		}
	}
	return passed >= one.upload.StopAfter
}

// arrangeBatchAsk takes in what was asked of a whole batch.
func (c *checker) arrangeBatchAsk(a Ask) {
	switch a.Kind {
	case AskUpload:
		if at, there := c.opened[a.ID]; a.OK() && (!there || a.Got.Before(at)) {
			c.opened[a.ID] = a.Got
		}
	case AskBatchCancel:
		if at := c.batchCancels[a.ID]; at.IsZero() || a.Sent.Before(at) {
			c.batchCancels[a.ID] = a.Sent
		}
		if a.OK() && (a.State == "canceling" || a.State == "canceled") {
			c.batchCanceling[a.ID] = true
		}
	}
}

// batchAsks is what was asked of batches.
type batchAsks struct {
	items          map[string]item
	opened         map[string]time.Time // when an upload was first known to be complete
	batchCancels   map[string]time.Time // when the first cancel was asked
	batchCanceling map[string]bool      // a client was told that the batch ends so
}

func newBatchAsks() batchAsks {
	return batchAsks{items: map[string]item{}, opened: map[string]time.Time{}, batchCancels: map[string]time.Time{}, batchCanceling: map[string]bool{}}
}
