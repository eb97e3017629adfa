package job

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BatchState is where a batch stands.
type BatchState string

const (
	// BatchUploading means that its items are being stored; none of them runs.
	BatchUploading BatchState = "uploading"
	// BatchRunning means that all items are stored; each becomes a job
	// shortly before its turn.
	BatchRunning BatchState = "running"
	// BatchCanceling means that its end was asked for; what has not ended is
	// being canceled.
	BatchCanceling BatchState = "canceling"
	// BatchFinished means that every item has ended. Final.
	BatchFinished BatchState = "finished"
	// BatchCanceled means that every item has ended, after its end was asked
	// for. Final.
	BatchCanceled BatchState = "canceled"
)

// Final reports whether every item has ended and is counted.
func (s BatchState) Final() bool { return s == BatchFinished || s == BatchCanceled }

// Active reports whether items of the batch may run.
func (s BatchState) Active() bool { return s == BatchRunning || s == BatchCanceling }

// Batch is many jobs under one name. Its items are stored before it runs, in
// segments of a manifest; an item becomes a job, with a record of its own,
// when its turn is near, and is stored in a segment of results soon after it
// has ended. So a batch of a million items has few records at a time.
//
// One Batch is stored per batch; each change replaces it by compare-and-set.
// What it counts is a fold over the final records of its items in the order of
// their streams up to the sequences in Folded: whoever folds again from there
// comes to the same numbers.
type Batch struct {
	Schema int        `json:"schema"`
	ID     string     `json:"id"` // a UUID
	Tenant string     `json:"tenant"`
	Pool   string     `json:"pool"`
	State  BatchState `json:"state"`

	// Name is for people; optional, as are the next three.
	Name      string     `json:"name,omitempty"`
	StopAfter *StopAfter `json:"stop_after,omitempty"`
	Success   *Success   `json:"success,omitempty"`
	Callback  *Callback  `json:"callback,omitempty"`
	// Settings is a hash of what was asked beside the items.
	Settings string `json:"settings"`

	// Lines counts what was uploaded, blank lines not. Of them Jobs became
	// items, numbered from 0 in their order, and Refused did not.
	Lines    int               `json:"lines"`
	Jobs     int               `json:"jobs"`
	Refused  int               `json:"refused,omitempty"`
	Manifest []ManifestSegment `json:"manifest,omitempty"`
	// Digest is that of all lines; while uploading the state of its hash.
	Digest []byte `json:"digest,omitempty"`
	// Upload names the request that may add lines, and at last the one that
	// opened the batch.
	Upload string `json:"upload,omitempty"`

	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	OpenedAt   time.Time `json:"opened_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	// ExpiresAt is when the server forgets a final batch, Retention how long
	// it keeps it.
	ExpiresAt time.Time     `json:"expires_at,omitzero"`
	Retention time.Duration `json:"retention"`

	// Since are the sequences of the record streams at which the batch was
	// opened: nothing of it is older.
	Since []uint64 `json:"since,omitempty"`
	// Cursor is the first item that may have no record yet. Those before it
	// have one, or had.
	Cursor int `json:"cursor"`
	// Dropped are items that were canceled before their turn.
	Dropped []int `json:"dropped,omitempty"`
	// Generation counts the cancels.
	Generation int `json:"generation,omitempty"`

	// Folded are the sequences up to which final records are in Counts and
	// Results, by record stream.
	Folded  []uint64        `json:"folded,omitempty"`
	Counts  BatchCounts     `json:"counts,omitzero"`
	Results []ResultSegment `json:"results,omitempty"`
	// Checkpoint names the object with what of the fold is large: which items
	// have ended, which have passed, how many have per group.
	Checkpoint string `json:"checkpoint,omitempty"`
	// Outcome is passed or failed by Success, once the batch is final.
	Outcome string `json:"outcome,omitempty"`
	// OutcomeReason is one sentence on it.
	OutcomeReason string `json:"outcome_reason,omitempty"`
	// Called tells of the completion callback.
	Called *Called `json:"called,omitempty"`
}

// ManifestSegment is an object with some lines of the upload, in their order.
type ManifestSegment struct {
	Name string `json:"name"`
	// First is the number of its first item, Jobs how many it has; Line is
	// the number of its first line, Refused how many of them were refused.
	First   int `json:"first"`
	Jobs    int `json:"jobs"`
	Line    int `json:"line"`
	Refused int `json:"refused,omitempty"`
}

// ResultSegment is an object with final records, in the order of the fold.
type ResultSegment struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
	Bytes int64  `json:"bytes"` // before compression
	// Low and High are the least and the greatest item in it.
	Low  int `json:"low"`
	High int `json:"high"`
	// Folded are the sequences after the last of it.
	Folded []uint64 `json:"folded"`
}

// StopAfter ends the rest of a group once enough of it has passed.
type StopAfter struct {
	// Passed is how many jobs of a group must succeed.
	Passed int `json:"passed"`
}

// Success says when a batch has passed.
type Success struct {
	// MinPassed is how many jobs must have succeeded, MinPassedRatio which
	// part of all lines; MinGroups how many groups must have reached
	// StopAfter.Passed. Those that are zero are not asked for.
	MinPassed      int     `json:"min_passed,omitempty"`
	MinPassedRatio float64 `json:"min_passed_ratio,omitempty"`
	MinGroups      int     `json:"min_groups,omitempty"`
}

// Callback is who is told of the end of the batch.
type Callback struct {
	URL string `json:"url"`
}

// Called is what became of the callback.
type Called struct {
	// Event names the event; the same at each try.
	Event    string    `json:"event"`
	Attempts int       `json:"attempts"`
	LastAt   time.Time `json:"last_at,omitzero"`
	// NextAt is when it is tried again; zero when that is over.
	NextAt time.Time `json:"next_at,omitzero"`
	// DoneAt is when it was answered with success.
	DoneAt time.Time `json:"done_at,omitzero"`
	Error  string    `json:"error,omitempty"`
}

// BatchCounts are the aggregates of a batch.
type BatchCounts struct {
	States   map[State]int  `json:"states,omitempty"`
	Verdicts []VerdictCount `json:"verdicts,omitempty"`
	// Failures are the first jobs that ended otherwise than by success or a
	// cancel.
	Failures []Failure `json:"failures,omitempty"`
	// Groups is how many groups have reached StopAfter.Passed.
	Groups int `json:"groups,omitempty"`
}

// VerdictCount is how many jobs ended with one verdict.
type VerdictCount struct {
	Blame  Blame  `json:"blame"`
	Reason Reason `json:"reason"`
	Count  int    `json:"count"`
}

// Failure is a job of a batch that did not succeed.
type Failure struct {
	ID     string `json:"id"`
	Key    string `json:"key"`
	State  State  `json:"state"`
	Blame  Blame  `json:"blame"`
	Reason Reason `json:"reason"`
}

// maxFailures is how many failures the counts name.
const maxFailures = 10

// Add counts one more job that ended.
func (c *BatchCounts) Add(f Failure) {
	if c.States == nil {
		c.States = map[State]int{}
	}
	c.States[f.State]++
	c.addVerdict(f.Blame, f.Reason, 1)
	if f.State != Succeeded && f.State != Canceled && len(c.Failures) < maxFailures {
		c.Failures = append(c.Failures, f)
	}
}

func (c *BatchCounts) addVerdict(blame Blame, reason Reason, n int) {
	at, found := slices.BinarySearchFunc(c.Verdicts, VerdictCount{Blame: blame, Reason: reason}, func(a, b VerdictCount) int {
		return strings.Compare(string(a.Blame)+" "+string(a.Reason), string(b.Blame)+" "+string(b.Reason))
	})
	if !found {
		c.Verdicts = slices.Insert(c.Verdicts, at, VerdictCount{Blame: blame, Reason: reason})
	}
	c.Verdicts[at].Count += n
}

// Plus is the sum of both; other comes later in the fold.
func (c BatchCounts) Plus(other BatchCounts) BatchCounts {
	sum := BatchCounts{
		States: map[State]int{}, Verdicts: slices.Clone(c.Verdicts), Groups: c.Groups + other.Groups,
		Failures: append(slices.Clone(c.Failures), other.Failures...),
	}
	sum.Failures = sum.Failures[:min(len(sum.Failures), maxFailures)]
	for _, states := range []map[State]int{c.States, other.States} {
		for s, n := range states {
			sum.States[s] += n
		}
	}
	for _, v := range other.Verdicts {
		sum.addVerdict(v.Blame, v.Reason, v.Count)
	}
	return sum
}

// Ended is how many jobs are counted.
func (c BatchCounts) Ended() int {
	n := 0
	for _, count := range c.States {
		n += count
	}
	return n
}

// Judge is the outcome of a batch of so many lines, and why.
func (s Success) Judge(c BatchCounts, lines int) (outcome, why string) {
	passed := c.States[Succeeded]
	var missed []string
	if passed < s.MinPassed {
		missed = append(missed, fmt.Sprintf("%d jobs succeeded, success.min_passed is %d", passed, s.MinPassed))
	}
	if ratio := s.MinPassedRatio; ratio > 0 && float64(passed) < ratio*float64(lines) {
		missed = append(missed, fmt.Sprintf("%d of %d lines succeeded, success.min_passed_ratio is %g", passed, lines, ratio))
	}
	if c.Groups < s.MinGroups {
		missed = append(missed, fmt.Sprintf("%d groups have enough that passed, success.min_groups is %d", c.Groups, s.MinGroups))
	}
	if len(missed) > 0 {
		return OutcomeFailed, strings.Join(missed, "; ")
	}
	return OutcomePassed, fmt.Sprintf("%d of %d lines succeeded", passed, lines)
}

// The outcomes of a batch with criteria.
const (
	OutcomePassed = "passed"
	OutcomeFailed = "failed"
)

var itemPattern = regexp.MustCompile(`^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-(0|[1-9][0-9]{0,8})$`)

// ItemID is the id of an item of a batch.
func ItemID(batch string, index int) string { return batch + "-" + strconv.Itoa(index) }

// Item takes the id of an item apart; false for the id of any other job.
func Item(id string) (batch string, index int, ok bool) {
	if len(id) < 38 || len(id) > 46 { // nearly all ids are shorter
		return "", 0, false
	}
	m := itemPattern.FindStringSubmatch(id)
	if m == nil {
		return "", 0, false
	}
	index, err := strconv.Atoi(m[2])
	return m[1], index, err == nil
}
