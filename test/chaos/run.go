package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// outcome is what became of one run.
type outcome struct {
	Seed     uint64          `json:"seed"`
	Nodes    int             `json:"nodes"`
	Took     time.Duration   `json:"took_ns"`
	Settled  time.Duration   `json:"settled_ns"` // from the end of all faults until nothing was open
	Faults   int             `json:"faults"`
	Asks     int             `json:"asks"`
	Stats    check.Stats     `json:"stats"`
	Findings []check.Finding `json:"findings"`
}

// quietTime is how long all may take by default: the hint of a job that nobody
// speaks of comes again after 60 s.
const quietTime = 80 * time.Second

// run has a cluster work under load and faults for a time, then heals it,
// waits until it is quiet, and has what was seen judged. An error is one of
// the harness.
func run(ctx context.Context, s setup, seed uint64, length time.Duration) (outcome, error) {
	began := time.Now()
	o := outcome{Seed: seed, Nodes: s.Nodes}
	if err := os.MkdirAll(s.Out, 0o755); err != nil {
		return o, err
	}
	c, err := newCluster(s)
	if err != nil {
		return o, err
	}
	defer c.close()
	if err := c.start(ctx); err != nil {
		for _, f := range c.broken() {
			err = errors.Join(err, errors.New(f.Text))
		}
		return o, err
	}
	see, err := newObserver(c)
	if err != nil {
		return o, err
	}
	defer see.close()
	l, err := newLoad(c, see, seed)
	if err != nil {
		return o, err
	}
	defer l.close()

	h, found, err := o.live(ctx, c, see, l, length)
	if err != nil {
		return o, err
	}
	if found := c.broken(); len(found) > 0 { // how it ends says nothing then
		o.Findings, o.Asks, o.Took = append(found, alarms(s.Out)...), int(l.n.Load()), time.Since(began)
		return o, writeJSON(filepath.Join(s.Out, "outcome.json"), o)
	}
	found = append(found, c.stop()...)
	l.history(&h)
	if err := see.history(&h); err != nil {
		found = append(found, check.Finding{Rule: "what is published can be read", Text: err.Error()})
	}
	for _, w := range c.workers {
		h.Processes = append(h.Processes, w.processes()...)
	}
	if !s.Real {
		if h.Executions, err = readExecutions(filepath.Join(s.Out, "executions.jsonl")); err != nil {
			return o, err
		}
	}
	more, stats := check.Check(h)
	o.Findings = append(append(found, more...), alarms(s.Out)...)
	o.Stats, o.Asks, o.Took = stats, len(h.Asks), time.Since(began)
	return o, writeJSON(filepath.Join(s.Out, "outcome.json"), o)
}

// fine reports whether every process lives.
func (c *cluster) fine() bool { return len(c.broken()) == 0 }

// live is the part of a run in which things happen: load and faults, then
// quiet, then a last look at everything.
func (o *outcome) live(ctx context.Context, c *cluster, see *observer, l *load, length time.Duration) (h check.History, found []check.Finding, err error) {
	working, rest := context.WithTimeout(ctx, length)
	defer rest()
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	t, err := newTrouble(c)
	if err != nil {
		return h, nil, err
	}
	faults := plan(o.Seed, c.setup, length)
	o.Faults = len(faults)
	var all sync.WaitGroup
	all.Go(func() { see.watchReady(watching) })
	reading, enough := context.WithCancel(ctx)
	defer enough()
	var loading sync.WaitGroup
	loading.Go(func() { l.run(working, reading) })
	err = t.run(working, faults)
	<-working.Done()
	if err := errors.Join(err, t.heal()); err != nil {
		rest()
		unwatch()
		enough()
		loading.Wait()
		all.Wait()
		l.followers.Wait()
		return h, nil, err
	}
	healed := time.Now()
	loading.Wait()
	found = l.finishUploads(ctx)
	records, stuck := o.quiet(ctx, c, see, l)
	h.Records, found = records, append(found, stuck...)
	h.Quiet = time.Now()
	o.Settled = h.Quiet.Sub(healed)
	unwatch()
	all.Wait()
	ended := time.AfterFunc(20*time.Second, enough)
	l.followers.Wait()
	ended.Stop()
	l.lastLook(ctx)
	h.Objects, h.Results = l.countObjects(ctx)
	h.Batches = l.countBatches(ctx, h.Records)
	return h, found, context.Cause(ctx)
}

// quiet waits until no record and no batch is open, and reads them all.
func (o *outcome) quiet(ctx context.Context, c *cluster, see *observer, l *load) (records []check.Record, found []check.Finding) {
	ctx, cancel := context.WithTimeout(ctx, c.Quiet)
	defer cancel()
	var err error
	open := 0
	for last := time.Now(); ctx.Err() == nil && c.fine(); _ = sleep(ctx, 500*time.Millisecond) {
		// Every record is read when all seem to have ended, and now and then
		// for those of which nobody was told.
		if see.underWay() > 0 && time.Since(last) < 5*time.Second {
			continue
		}
		if open = l.openBatches(ctx); open > 0 && time.Since(last) < 5*time.Second {
			continue
		}
		var now []check.Record
		once, cancelOnce := context.WithTimeout(ctx, 10*time.Second) // a question may be lost
		now, err = see.records(once)
		cancelOnce()
		last = time.Now()
		if err != nil {
			continue
		}
		records = now
		see.refresh(now)
		if !slices.ContainsFunc(now, func(r check.Record) bool { return !ended[r.State] }) && see.underWay() == 0 && open == 0 {
			return records, nil
		}
	}
	text := fmt.Sprintf("%d jobs and %d batches are open after %s of quiet", see.underWay(), open, c.Quiet)
	if err != nil {
		text += ", and the records cannot be read: " + err.Error()
	}
	return records, []check.Finding{{Rule: check.RuleStuck, Text: text}}
}

// countBatches asks every scheduler for every batch, until what they say is
// what the records say or it is time to believe that it never will be: they
// follow the records a little later.
func (l *load) countBatches(ctx context.Context, records []check.Record) []check.Batch {
	for deadline := time.Now().Add(20 * time.Second); ; _ = sleep(ctx, 500*time.Millisecond) {
		var all []check.Batch
		for _, g := range l.c.schedulers {
			for id, tenant := range l.batches {
				b := check.Batch{From: g.name, ID: id, Status: http.StatusOK}
				var status *statusError
				err := g.get(ctx, tenant, "/v1/batches/"+id, &b)
				if errors.As(err, &status) {
					b.Status = status.status
				} else if err != nil {
					b.Status = 0
				}
				all = append(all, b)
			}
		}
		wrong := check.Recount(records, all)
		if len(wrong) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return all
		}
	}
}

// readExecutions reads what the sandboxes wrote down.
func readExecutions(path string) ([]check.Execution, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := []check.Execution{}
	where := map[string]int{}
	for in := bufio.NewScanner(bytes.NewReader(data)); in.Scan(); {
		var e entry
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read executions: %w", err)
		}
		if e.Event == "begin" {
			where[e.Exec] = len(all)
			all = append(all, check.Execution{ID: e.Exec, Job: e.Job, Attempt: e.Attempt, Worker: e.Worker, Process: e.Process, Start: e.At})
			continue
		}
		one := &all[where[e.Exec]]
		one.End, one.Complete = e.At, e.Complete
	}
	return all, nil
}

// alarms are the lines in logs that no run may write.
func alarms(dir string) (found []check.Finding) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, name := range logs {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, word := range []string{"panic: ", "DATA RACE", "fatal error: "} {
			if i := bytes.Index(data, []byte(word)); i >= 0 {
				line, _, _ := bytes.Cut(data[i:], []byte("\n"))
				found = append(found, check.Finding{Rule: "no process panics", Text: filepath.Base(name) + ": " + string(line)})
			}
		}
	}
	return found
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
