package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// ledger is what clients were told, and what the server told of each record,
// on a disk that keeps its power.
type ledger struct {
	mu       sync.Mutex
	jobs     map[string]*entry
	order    []string
	findings []string
	stats    stats
}

// entry is one job that was acknowledged.
type entry struct {
	id       string
	sent     time.Time // before it was asked for
	accepted time.Time // when it was acknowledged; zero if it was only heard of
	// result is the final answer, as the first client got it at answered.
	result   string
	answered time.Time
	// base is the record as this life of the servers found it, nil for none;
	// told are its revisions since then.
	base *check.Record
	told []check.Revision
	// lost: it was not there after a loss that may have taken it.
	lost bool
}

// stats count what losses did.
type stats struct {
	Accepted int `json:"accepted"`
	Answered int `json:"answered"`
	// Lost are jobs that were gone, Reset those that stood where they had
	// been before, and Oldest is the age at the cut of the oldest change that
	// was taken.
	Lost   int           `json:"lost"`
	Reset  int           `json:"reset"`
	Oldest time.Duration `json:"oldest_ns"`
	Pages  int           `json:"pages"`
	Gone   int           `json:"pages_gone"`
	Losses int           `json:"losses"`
}

func newLedger() *ledger { return &ledger{jobs: map[string]*entry{}} }

func (l *ledger) found(format string, args ...any) {
	l.findings = append(l.findings, fmt.Sprintf(format, args...))
}

func (l *ledger) entry(id string) *entry {
	e := l.jobs[id]
	if e == nil {
		e = &entry{id: id}
		l.jobs[id] = e
	}
	return e
}

// accepted notes that a job was acknowledged.
func (l *ledger) accepted(id string, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(id)
	if e.accepted.IsZero() {
		e.sent, e.accepted = sent, time.Now()
		l.order = append(l.order, id)
		l.stats.Accepted++
	}
}

// told notes an answer about a job; all final ones must be the same.
func (l *ledger) told(j api.Job) {
	if !j.State.Final() {
		return
	}
	text, _ := json.Marshal([]any{j.State, j.UpdatedAt, j.Verdict, j.Steps, j.Attempts}) // plain values
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(j.ID)
	switch e.result {
	case "":
		e.result, e.answered = string(text), time.Now()
		l.stats.Answered++
	case string(text):
	default:
		l.found("job %s was answered with %s, and later with %s", j.ID, e.result, text)
	}
}

// heard notes a revision that the server told of.
func (l *ledger) heard(r check.Revision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(r.Job)
	e.told = append(e.told, r)
}

// some is a job that was acknowledged, mostly a young one.
func (l *ledger) some(r *rand.Rand) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.order) == 0 {
		return ""
	}
	return l.order[len(l.order)-1-r.IntN(min(len(l.order), 200))]
}

// open is how many jobs are not known to have ended.
func (l *ledger) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, id := range l.order[max(0, len(l.order)-2000):] {
		e := l.jobs[id]
		if len(e.told) > 0 && !ended[e.told[len(e.told)-1].State] {
			n++
		}
	}
	return n
}

// ended lists the final states.
var ended = map[string]bool{"succeeded": true, "failed": true, "canceled": true, "expired": true, "dead": true}

// claim is what a profile says of a loss: how old a change may be and be gone.
// Zero is strict: what a client was told is never gone.
type claim time.Duration

// judge compares what was told before a cut with the records that are there
// after it.
func (l *ledger) judge(records map[string]check.Record, at time.Time, c claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Losses++
	for _, e := range l.jobs {
		if e.lost {
			continue
		}
		r, there := records[e.id]
		e.judge(l, r, there, at, c)
		e.base, e.told = nil, nil
		if there {
			e.base = &r
		}
	}
	for id, r := range records { // also those of which nobody was told
		if l.jobs[id] == nil {
			l.jobs[id] = &entry{id: id, base: &r}
		}
	}
}

// judge is for one job. seq grows with each change of the record; a record
// that stands before the seq of a change has lost that change.
func (e *entry) judge(l *ledger, now check.Record, there bool, at time.Time, c claim) {
	missing := func(seq uint64) bool { return !there || now.Seq < seq }
	e.lost = !there
	if e.base != nil && missing(e.base.Seq) && len(e.told) == 0 {
		l.found("job %s (%s at %d after the loss before) is %s: it had not changed in between", e.id, e.base.State, e.base.Seq, where(now, there))
		return
	}
	first := time.Time{} // the oldest change that is gone
	for _, r := range e.told {
		if missing(r.Seq) {
			first = r.At
			break
		}
	}
	if first.IsZero() && !there && !e.accepted.IsZero() {
		first = e.sent // nobody told of it, but it was acknowledged
	}
	unanswered := e.result != "" && !ended[now.State] // the result is gone
	if !first.IsZero() {
		age := at.Sub(first)
		l.stats.Oldest = max(l.stats.Oldest, age)
		if there {
			l.stats.Reset++
		} else {
			l.stats.Lost++
		}
		if c > 0 && age > time.Duration(c) {
			l.found("job %s is %s, and had changed %s before the cut: %s", e.id, where(now, there), age.Round(time.Millisecond), e.history(at))
		}
	}
	if c == 0 && !there && !e.accepted.IsZero() {
		l.found("job %s was acknowledged %s before the cut and is gone: %s", e.id, at.Sub(e.accepted).Round(time.Millisecond), e.history(at))
	}
	if c == 0 && unanswered {
		l.found("job %s was answered %s before the cut and is %s: %s", e.id, at.Sub(e.answered).Round(time.Millisecond), where(now, there), e.history(at))
	}
	if unanswered && c > 0 {
		e.result = "" // it runs again
	}
}

func where(r check.Record, there bool) string {
	if !there {
		return "gone"
	}
	return fmt.Sprintf("%s at %d", r.State, r.Seq)
}

// history is what was told of the job, with the ages at the cut.
func (e *entry) history(at time.Time) string {
	text := ""
	if e.base != nil {
		text = fmt.Sprintf("%s at %d before; ", e.base.State, e.base.Seq)
	}
	for _, r := range e.told {
		text += fmt.Sprintf("%s at %d (%s); ", r.State, r.Seq, at.Sub(r.At).Round(time.Millisecond))
	}
	return text
}

// waiting lists the jobs that are to end.
func (l *ledger) waiting() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for id, e := range l.jobs {
		if !e.lost && (e.base != nil || !e.accepted.IsZero()) {
			all = append(all, id)
		}
	}
	return all
}
