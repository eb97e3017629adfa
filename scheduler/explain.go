package scheduler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func (s *Scheduler) handleExplain(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.record(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	before, after, err := s.explainRedrive(r.Context(), rec)
	if err != nil {
		return err
	}
	told := slices.Concat(before, s.explain(r.Context(), rec, time.Now()), after)
	return writeJSON(w, http.StatusOK, api.Explain{ID: rec.ID, State: rec.State, Sentences: told})
}

// explain says in a sentence each why the attempts of a job ended without a
// result, and why it stands where it stands.
func (s *Scheduler) explain(ctx context.Context, rec job.Record, now time.Time) []string {
	var told []string
	if t := rec.Schedule; t != nil {
		how := "for its tick at"
		if t.Manual {
			how = "by hand at"
		}
		told = append(told, fmt.Sprintf("Schedule %s submitted it %s %s.", t.Name, how, t.At.Format(time.RFC3339)))
	}
	for _, a := range rec.Attempts {
		if text := explainAttempt(a); text != "" {
			told = append(told, text)
		}
	}
	if text := s.explainPlace(rec, now); text != "" {
		told = append(told, text)
	}
	switch rec.State {
	case job.Queued, job.Retrying:
		return append(told, s.explainWait(ctx, rec, now)...)
	case job.Running:
		return append(told, fmt.Sprintf("Worker %s runs attempt %d for %s now.", rec.Worker, rec.Attempt, ago(now, rec.UpdatedAt)))
	case job.Canceling:
		return append(told, fmt.Sprintf("Its end was asked for; worker %s is stopping attempt %d.", rec.Worker, rec.Attempt))
	}
	return append(told, explainEnd(rec))
}

func explainAttempt(a job.Attempt) string {
	detail := ""
	if a.Detail != "" {
		detail = " (" + strings.TrimSuffix(a.Detail, ".") + ")"
	}
	switch a.Outcome {
	case job.Lost:
		return fmt.Sprintf("Attempt %d on worker %s was lost: the worker vanished%s; nobody but the platform is to blame.", a.Number, a.Worker, detail)
	case job.Drained:
		return fmt.Sprintf("Attempt %d on worker %s was given back because the worker stopped%s; it counts for nothing.", a.Number, a.Worker, detail)
	case job.AttemptFailed:
		return fmt.Sprintf("Attempt %d on worker %s ended with %s%s, which retry.on names.", a.Number, a.Worker, a.Reason, detail)
	case job.Fault:
		return fmt.Sprintf("Attempt %d on worker %s failed by a fault of the platform, %s%s.", a.Number, a.Worker, a.Reason, detail)
	}
	return ""
}

// explainWait says why a job does not run yet.
func (s *Scheduler) explainWait(ctx context.Context, rec job.Record, now time.Time) []string {
	if text := s.explainItem(rec); text != "" {
		return append([]string{text}, s.explainShare(rec)...)
	}
	var told []string
	if at := rec.Budgets.Deadline(rec.AcceptedAt, rec.Attempt); !at.IsZero() {
		told = append(told, fmt.Sprintf("It expires at %s, in %s, if it still waits then.", at.UTC().Format(time.RFC3339), max(at.Sub(now), 0).Round(time.Millisecond)))
	}
	if rec.NotBefore.After(now) {
		wait, at := rec.NotBefore.Sub(now).Round(time.Millisecond), rec.NotBefore.Format(time.RFC3339)
		if rec.State == job.Queued {
			return append(told, fmt.Sprintf("It is not to run before %s, in %s: not_before says so.", at, wait))
		}
		return append(told, fmt.Sprintf("Attempt %d is due in %s, at %s; attempts are spaced out after a failure.", rec.Attempt+1, wait, at))
	}
	told = append(told, s.explainShare(rec)...)
	if s.isReady() {
		told = append(told, s.explainTurn(rec, now))
	}
	if _, err := s.Queue.Leader(ctx, rec.Pool); errors.Is(err, job.ErrNotFound) {
		told = append(told, fmt.Sprintf("No scheduler leads pool %s, so no more of its jobs are released; one that runs takes over within seconds, else start one with `sandlot scheduler`.", rec.Pool))
	}
	return append(told, s.explainWorkers(rec.Pool, rec.Class))
}

// explainItem says that an item of a batch is no job yet; empty of any other
// job.
func (s *Scheduler) explainItem(rec job.Record) (text string) {
	batch, index, item := job.Item(rec.ID)
	if !item {
		return ""
	}
	s.folds.look(scoped{rec.Tenant, batch}, func(f *fold) {
		if index >= f.cursor {
			text = fmt.Sprintf("It is item %d of its batch and no job yet: %d of the %d items are or were, and more become jobs as those end.", index, f.cursor, f.b.Jobs)
		}
	})
	return text
}

func (s *Scheduler) isReady() bool {
	select {
	case <-s.index.ready:
		return true
	default:
		return false
	}
}

// explainWorkers says whether there is who could take a job of a class.
func (s *Scheduler) explainWorkers(pool, class string) string {
	if p, _ := s.lead.led.look(pool); p.Paused {
		return fmt.Sprintf("Pool %s is paused since %s: its jobs wait until it is resumed (`sandlot pools resume %s`).", pool, p.UpdatedAt.Format(time.RFC3339), pool)
	}
	var all []queue.Worker
	for _, w := range s.workers.all() {
		if w.Serves(pool, class) {
			all = append(all, w)
		}
	}
	fit, slots, busy := s.workers.slots(pool, class)
	switch {
	case len(all) == 0:
		return fmt.Sprintf("No worker of class %s of pool %s is registered; start one with `%s`.", class, pool, workerCommand(pool, class))
	case fit == 0:
		return fmt.Sprintf("No registered worker of class %s of pool %s takes jobs: %s.", class, pool, strings.Join(reasons(all), "; "))
	case busy >= slots:
		return fmt.Sprintf("All %d slots of the workers of class %s of pool %s are busy (workers: %d).", slots, class, pool, fit)
	}
	return fmt.Sprintf("%d of %d slots are free, so it should be taken at once.", slots-busy, slots)
}

// workerCommand starts a worker that would take a job.
func workerCommand(pool, class string) string {
	command := "sandlot worker"
	if pool != job.DefaultPool {
		command += " --pool " + pool
	}
	if class != job.DefaultClass {
		command += " --class " + class
	}
	return command
}

func reasons(all []queue.Worker) []string {
	var list []string
	for _, w := range all {
		switch {
		case w.Draining:
			list = append(list, w.ID+" is draining: it finishes what it has and leaves")
		case !w.Quarantined.IsZero():
			list = append(list, fmt.Sprintf("of %s: %s (`sandlot workers release %s` lets it out)", w.ID, w.Why, w.ID))
		}
		for _, u := range unfitOf(w) {
			list = append(list, strings.TrimSuffix(fmt.Sprintf("%s cannot enforce %s: %s", w.ID, u.Limit, u.Why), ": "))
		}
	}
	return list
}

// explainEnd says why a job ended as it did, with the numbers that decided.
func explainEnd(rec job.Record) string {
	switch {
	case rec.State == job.Canceled:
		if rec.Attempt == 0 {
			return "It was canceled before it ran."
		}
		return fmt.Sprintf("It was canceled during attempt %d.", rec.Attempt)
	case rec.State == job.Expired && rec.Result != nil:
		e := rec.Result.Verdict.Evidence
		when := "before it could run"
		if n := len(rec.Attempts); n > 0 && rec.Attempts[n-1].Outcome == job.AttemptExpired {
			when = fmt.Sprintf("during attempt %d, which was stopped", rec.Attempt)
		} else if n > 0 {
			when = fmt.Sprintf("while it waited for attempt %d", rec.Attempt+1)
		}
		return fmt.Sprintf("It expired %s, %s after its acceptance: %s.", when, measure(e.Measured, e.Unit), e.Detail)
	case rec.State == job.Expired:
		return "Its time to start passed before it could run."
	case rec.Result == nil:
		return fmt.Sprintf("It ended as %s; no result was recorded.", rec.State)
	}
	return explainVerdict(rec)
}

func explainVerdict(rec job.Record) string {
	v := rec.Result.Verdict
	e := v.Evidence
	step := ""
	if e.Step != "" {
		step = fmt.Sprintf(" in step %q", e.Step)
	}
	switch v.Reason {
	case job.Exited:
		code := 0
		if e.ExitCode != nil {
			code = *e.ExitCode
		}
		if rec.State == job.Succeeded {
			return "It succeeded: every step that counts exited with 0." + hits(e)
		}
		return fmt.Sprintf("It failed because the program exited with %d%s.%s", code, step, hits(e))
	case job.Signaled:
		return fmt.Sprintf("It failed because the program died of %s%s, of its own making.%s", e.Signal, step, hits(e))
	case job.TimedOut:
		return fmt.Sprintf("It was stopped%s after %s: limits.wall_ms is %s.", step, measure(e.Measured, e.Unit), measure(e.Limit, e.Unit))
	case job.CPUTime:
		return fmt.Sprintf("It was stopped%s after %s of processor time: limits.cpu_time_ms is %s.", step, measure(e.Measured, e.Unit), measure(e.Limit, e.Unit))
	case job.OutOfMemory:
		return fmt.Sprintf("It ran out of memory%s: the sandbox reached %s, limits.memory is %s and the host enforced %s with the sandbox's own share.", step, measure(e.Measured, e.Unit), measure(e.Limit, e.Unit), measure(e.Applied, e.Unit))
	case job.OutputLimit:
		return fmt.Sprintf("It was stopped%s because it wrote %s: limits.output is %s.", step, measure(e.Measured, e.Unit), measure(e.Limit, e.Unit))
	case job.PIDsLimit:
		return fmt.Sprintf("It made more processes than the host's guard allows%s: limits.pids is %s, the guard %s.", step, measure(e.Limit, e.Unit), measure(e.Applied, e.Unit))
	}
	detail := ""
	if e.Detail != "" {
		detail = ": " + strings.TrimSuffix(e.Detail, ".")
	}
	return fmt.Sprintf("It is dead by %s%s, after %d attempts that the platform failed; the program is not to blame.", v.Reason, detail, job.PlatformFaults(rec.Attempts))
}

// hits names limits that the program ran into and survived.
func hits(e job.Evidence) string {
	if len(e.Hit) == 0 {
		return ""
	}
	return " It ran into " + strings.Join(e.Hit, " and ") + " on its way."
}

// measure writes a number of the evidence for a reader.
func measure(value float64, unit string) string {
	switch unit {
	case "bytes":
		return fmt.Sprintf("%s (%.0f bytes)", roughly(value), value)
	case "ms":
		return fmt.Sprintf("%.0f ms", value)
	}
	return fmt.Sprintf("%.0f %s", value, unit)
}

func roughly(bytes float64) string {
	for _, u := range []string{"B", "KiB", "MiB"} {
		if bytes < 1024 {
			return fmt.Sprintf("%.4g %s", bytes, u)
		}
		bytes /= 1024
	}
	return fmt.Sprintf("%.4g GiB", bytes)
}

func ago(now, then time.Time) string {
	d := now.Sub(then)
	if d > 10*time.Second {
		return d.Round(time.Second).String()
	}
	return max(d, 0).Round(time.Millisecond).String()
}

func jobs(n int) string {
	if n == 1 {
		return "one job"
	}
	return fmt.Sprintf("%d jobs", n)
}
