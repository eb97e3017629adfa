package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// showJob prints a job for a person: what it is, how it ended, what it wrote.
func showJob(w io.Writer, j api.Job) {
	rows := [][]string{{"job", j.ID}, {"state", string(j.State)}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if j.Verdict != nil {
		add("verdict", j.Verdict.String())
		add("evidence", evidence(*j.Verdict))
	}
	add("key", j.Key)
	add("batch", j.Batch)
	if t := j.Schedule; t != nil {
		add("schedule", t.Name+map[bool]string{true: ", by hand at ", false: ", tick "}[t.Manual]+stamp(t.At))
	}
	add("image", strings.TrimSpace(j.Image.Name+" "+j.Image.Digest))
	add("queue", fmt.Sprintf("%s, priority %d", j.Queue, j.Priority))
	add("worker", j.Worker)
	add("accepted", stamp(j.AcceptedAt))
	add("not before", stamp(j.NotBefore))
	add("start by", deadline(j.AcceptedAt, j.Budgets.StartBy))
	add("end by", deadline(j.AcceptedAt, j.Budgets.Total))
	add("kept until", stamp(j.ExpiresAt))
	add("redrive of", j.RedriveOf)
	add("redriven as", j.RedrivenAs)
	add("trace", j.TraceID)
	table(w, rows)
	showSteps(w, j.Steps)
	showAttempts(w, j.Attempts)
	for _, f := range j.Artifacts {
		fmt.Fprintf(w, "artifact %s  %s  sha256:%s\n", f.Path, size(f.Bytes), f.SHA256)
	}
}

func showSteps(w io.Writer, steps []job.StepResult) {
	if len(steps) == 0 {
		return
	}
	rows := [][]string{{"\nSTEP", "ENDED", "WALL", "CPU", "PEAK MEMORY", "STDOUT", "STDERR"}}
	for _, s := range steps {
		ended := s.Signal
		if s.ExitCode != nil {
			ended = fmt.Sprintf("exit %d", *s.ExitCode)
		}
		rows = append(rows, []string{
			s.Name, dash(ended), s.Wall.String(), s.CPU.String(), size(int64(s.PeakMemory)), size(s.Stdout.Bytes), size(s.Stderr.Bytes),
		})
	}
	table(w, rows)
	for _, s := range steps {
		showOutput(w, s.Name, "stdout", s.Stdout)
		showOutput(w, s.Name, "stderr", s.Stderr)
	}
}

func showOutput(w io.Writer, step, stream string, o job.Output) {
	if o.Bytes == 0 {
		return
	}
	note := ""
	if o.Truncated {
		note = fmt.Sprintf(" (of %s only head and tail; sandlot logs shows all)", size(o.Bytes))
	}
	fmt.Fprintf(w, "\n%s of %s%s:\n", stream, step, note)
	if o.Base64 != nil {
		fmt.Fprintf(w, "%q\n", o.Base64)
		return
	}
	fmt.Fprint(w, o.Text)
	if !strings.HasSuffix(o.Text, "\n") {
		fmt.Fprintln(w)
	}
}

func showAttempts(w io.Writer, attempts []job.Attempt) {
	if len(attempts) == 0 || len(attempts) == 1 && attempts[0].Outcome == job.Finished {
		return
	}
	rows := [][]string{{"\nATTEMPT", "WORKER", "OUTCOME", "REASON", "TOOK", "DETAIL"}}
	for _, t := range attempts {
		took := "-"
		if !t.EndedAt.IsZero() {
			took = t.EndedAt.Sub(t.StartedAt).Round(time.Millisecond).String()
		}
		rows = append(rows, []string{
			fmt.Sprint(t.Number), t.Worker, dash(string(t.Outcome)), dash(string(t.Reason)), took, dash(t.Detail),
		})
	}
	table(w, rows)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}

// deadline is when a budget is over, "" if there is none.
func deadline(accepted time.Time, budget job.Millis) string {
	if budget == 0 {
		return ""
	}
	return stamp(accepted.Add(budget.Duration()))
}
