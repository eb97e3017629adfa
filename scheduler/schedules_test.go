package scheduler_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

var scheduledJob = json.RawMessage(`{"image":"python","command":["echo","tick"],"labels":{"of":"test"}}`)

// nightly never ticks during a test.
func nightly() api.ScheduleSettings {
	return api.ScheduleSettings{Cron: "0 3 1 1 *", Job: scheduledJob}
}

// since puts a schedule into the queue whose ticks are dealt with up to a time.
func (w *world) since(name, line string, after time.Time, change func(*job.Schedule)) job.Schedule {
	w.t.Helper()
	s := job.Schedule{
		Tenant: job.DefaultTenant, Name: name, Cron: line, Job: scheduledJob,
		Missed: job.MissedOnce, Overlap: job.OverlapAllow, CreatedAt: after, After: after,
	}
	if change != nil {
		change(&s)
	}
	s, _, err := w.queue.SetSchedule(w.ctx, s, 0)
	must(w.t, err)
	return s
}

// ofSchedule are the jobs of a schedule, by tick.
func (w *world) ofSchedule(name string) map[time.Time][]api.Summary {
	w.t.Helper()
	list, err := w.client.List(w.ctx, client.ListOptions{Schedule: name, Limit: 1000})
	must(w.t, err)
	ticks := map[time.Time][]api.Summary{}
	for _, j := range list.Jobs {
		ticks[j.Schedule.At] = append(ticks[j.Schedule.At], j)
	}
	return ticks
}

// schedule waits until a schedule is as it should be.
func (w *world) schedule(name, what string, ok func(api.Schedule) bool) api.Schedule {
	w.t.Helper()
	var s api.Schedule
	w.until(what, func() bool {
		var err error
		s, err = w.client.Schedule(w.ctx, name)
		return err == nil && ok(s)
	})
	return s
}

// TestEachTickHasOneJob runs three schedulers on one queue, of which any may
// lead, and lets the one that does die again and again.
func TestEachTickHasOneJob(t *testing.T) {
	w := newWorld(t, nil)
	run := func(name string) (stop func()) {
		q, err := queue.Open(w.ctx, queue.Config{Server: w.server, Name: name, Logger: w.log})
		must(t, err)
		s, err := scheduler.New(scheduler.Config{Queue: q, Logger: w.log, Listen: "127.0.0.1:0", Token: token, TempDir: t.TempDir()})
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		return func() {
			cancel()
			q.Close() // whatever it was about to write is not written any more
			<-done
		}
	}
	w.work(2, succeed)
	began := time.Now().UTC().Truncate(time.Second)
	for i := range 5 {
		w.since(fmt.Sprintf("s%d", i), "* * * * * *", began, nil)
	}
	seen := func(n int) func() bool {
		return func() bool { return len(w.ofSchedule("s0")) >= n }
	}
	for life := range 3 {
		stop := run(fmt.Sprintf("other-%d", life))
		w.until("more ticks", seen(2*life+2))
		w.restart()
		w.until("ticks go on", seen(2*life+3))
		stop()
	}
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		s := w.schedule(name, "the last tick is dealt with", func(s api.Schedule) bool { return s.LastJob != "" })
		for tick, jobs := range w.ofSchedule(name) {
			if len(jobs) != 1 || tick.Nanosecond() != 0 || !tick.After(began) {
				t.Errorf("%s has %d jobs for its tick at %v", name, len(jobs), tick)
			}
		}
		last, err := w.client.Get(w.ctx, s.LastJob)
		if err != nil || !last.Schedule.At.Equal(s.LastAt) || last.Schedule.Name != name || last.Schedule.Manual {
			t.Errorf("last job %+v at %v, %v", last.Schedule, s.LastAt, err)
		}
	}
}

// TestATickUnderWayIsFinishedOnce has a scheduler find what another left
// between any two of its writes.
func TestATickUnderWayIsFinishedOnce(t *testing.T) {
	tick := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	id := func(n int) string { return fmt.Sprintf("01980000-0000-7000-8000-00000000000%d", n) }
	record := func(w *world, id string) job.Record {
		return job.Record{ID: id, Tenant: job.DefaultTenant, Queue: "default", Retention: time.Hour, BodyHash: "another",
			Spec: &job.Spec{Image: job.Image{Name: "python", Digest: digest}}, Image: job.Image{Name: "python", Digest: digest},
			Schedule: &job.Tick{Name: "x", At: tick}}
	}
	for name, c := range map[string]struct {
		before   func(w *world, id string)
		since    time.Duration
		jobs     int
		lastJob  bool
		whyError string
	}{
		"before its job": {func(*world, string) {}, 59 * time.Minute, 1, true, ""},
		"after its job":  {func(w *world, id string) { _, _, err := w.queue.Accept(w.ctx, record(w, id)); must(w.t, err) }, time.Minute, 1, true, ""},
		"its job has been removed": {func(w *world, id string) {
			_, _, err := w.queue.Accept(w.ctx, record(w, id))
			must(w.t, err)
			_, err = w.queue.Cancel(w.ctx, job.DefaultTenant, id)
			must(w.t, err)
			must(w.t, w.queue.Remove(w.ctx, job.DefaultTenant, id))
		}, time.Minute, 0, true, ""},
		"so long ago that its job may have been and gone": {func(*world, string) {}, 61 * time.Minute, 0, false, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.stop()
			c.before(w, id(1))
			w.since("x", "0 3 1 1 *", tick, func(s *job.Schedule) {
				s.Firing = &job.Firing{Tick: tick, Job: id(1), Since: time.Now().Add(-c.since), Retention: time.Hour}
			})
			w.start("127.0.0.1:0")
			s := w.schedule("x", "the tick is dealt with", func(s api.Schedule) bool { return s.LastJob != "" || s.LastError != nil })
			if c.lastJob != (s.LastJob == id(1) && s.LastAt.Equal(tick)) || (c.whyError != "") != (s.LastError != nil) || s.LastError != nil && s.LastError.Reason != c.whyError {
				t.Errorf("last job %q at %v, %+v", s.LastJob, s.LastAt, s.LastError)
			}
			if jobs := w.ofSchedule("x")[tick]; len(jobs) != c.jobs {
				t.Errorf("%d jobs", len(jobs))
			}
			if stored, _, err := w.queue.Schedule(w.ctx, job.DefaultTenant, "x"); err != nil || stored.Firing != nil {
				t.Errorf("%+v is still under way, %v", stored.Firing, err)
			}
		})
	}
}

// TestTwoWhoSubmitOneTickMakeOneJob: the record is the arbiter.
func TestTwoWhoSubmitOneTickMakeOneJob(t *testing.T) {
	w := newWorld(t, nil)
	rec := job.Record{ID: "01980000-0000-7000-8000-000000000001", Tenant: job.DefaultTenant, Queue: "default", BodyHash: "x",
		Spec: &job.Spec{}, Schedule: &job.Tick{Name: "x", At: time.Now()}}
	var made sync.Map
	var both sync.WaitGroup
	for i := range 8 {
		both.Go(func() {
			_, created, err := w.queue.Accept(w.ctx, rec)
			if err != nil {
				t.Error(err)
			}
			if created {
				made.Store(i, true)
			}
		})
	}
	both.Wait()
	n := 0
	made.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d jobs were made", n)
	}
	_, err := w.queue.Cancel(w.ctx, rec.Tenant, rec.ID)
	must(t, err)
	must(t, w.queue.Remove(w.ctx, rec.Tenant, rec.ID))
	if _, _, err := w.queue.Accept(w.ctx, rec); !errors.Is(err, queue.ErrRemoved) {
		t.Errorf("again, after it was removed: %v", err)
	}
}

func TestMissedTicks(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	now := time.Now().UTC()
	w.since("once", "@every 1h", now.Add(-10*time.Hour-30*time.Minute), nil)
	w.since("skip", "@every 1h", now.Add(-10*time.Hour-30*time.Minute), func(s *job.Schedule) { s.Missed = job.MissedSkip })
	w.since("paused", "@every 1h", now.Add(-10*time.Hour), func(s *job.Schedule) { s.Paused = true })
	w.since("just", "@every 1h", now.Add(-time.Hour-time.Second), func(s *job.Schedule) { s.Missed = job.MissedSkip })
	w.start("127.0.0.1:0")
	first := now.Add(-10*time.Hour - 30*time.Minute).Truncate(time.Second).Add(time.Hour)

	once := w.schedule("once", "the missed ticks are dealt with", func(s api.Schedule) bool { return s.LastJob != "" })
	if !once.LastAt.Equal(first.Add(9*time.Hour)) || !once.NextAt.Equal(first.Add(10*time.Hour)) || len(w.ofSchedule("once")) != 1 {
		t.Errorf("last at %v, next at %v, jobs %v; the first that was missed is %v", once.LastAt, once.NextAt, w.ofSchedule("once"), first)
	}
	if n := once.LastSkipped; n == nil || n.Reason != job.TickMissed || !n.Tick.Equal(first) || !strings.Contains(n.Detail, "stands for it") {
		t.Errorf("skipped %+v", n)
	}
	skip := w.schedule("skip", "the missed ticks are passed over", func(s api.Schedule) bool { return s.LastSkipped != nil })
	if skip.LastJob != "" || !skip.NextAt.Equal(first.Add(10*time.Hour)) || !strings.Contains(skip.LastSkipped.Detail, "late") {
		t.Errorf("%+v, %+v", skip, skip.LastSkipped)
	}
	w.schedule("just", "a tick that is a little late is not missed", func(s api.Schedule) bool { return s.LastJob != "" })
	if p, err := w.client.Schedule(w.ctx, "paused"); err != nil || p.LastJob != "" || !p.NextAt.IsZero() {
		t.Errorf("paused: %+v, %v", p, err)
	}
	// What passed during the pause is not made up for.
	resumed, err := w.client.SetSchedule(w.ctx, "paused", api.ScheduleSettings{Cron: "@every 1h", Job: scheduledJob})
	if err != nil || resumed.NextAt.Before(now.Add(59*time.Minute)) {
		t.Errorf("resumed: next at %v, %v", resumed.NextAt, err)
	}
}

func TestOverlap(t *testing.T) {
	w := newWorld(t, nil)
	w.since("alone", "* * * * * *", time.Now(), func(s *job.Schedule) { s.Overlap = job.OverlapSkip })
	first := w.schedule("alone", "its first tick, and one that is passed over", func(s api.Schedule) bool { return s.LastJob != "" && s.LastSkipped != nil })
	if n := first.LastSkipped; n.Reason != job.TickOverlap || !strings.Contains(n.Detail, first.LastJob) || len(w.ofSchedule("alone")) != 1 {
		t.Errorf("skipped %+v, jobs %v", n, w.ofSchedule("alone"))
	}
	_, err := w.client.Cancel(w.ctx, first.LastJob)
	must(t, err)
	w.schedule("alone", "another job, once the last has ended", func(s api.Schedule) bool { return s.LastJob != first.LastJob })
}

// TestARefusedTickIsTold: by a cap and by an image that is gone.
func TestARefusedTickIsTold(t *testing.T) {
	w := newWorld(t, nil)
	capped := w.tenant("capped", job.Share{MaxQueued: 1})
	_, err := capped.Submit(w.ctx, echo("waits"), 0)
	must(t, err)
	past := time.Now().Add(-90 * time.Second)
	w.since("full", "@every 1m", past, func(s *job.Schedule) { s.Tenant = "capped" })
	w.since("gone", "@every 1m", past, func(s *job.Schedule) {
		s.Job = json.RawMessage(`{"image":"vanished","command":["true"]}`)
	})
	var full api.Schedule
	w.until("the tick is refused", func() bool {
		full, err = capped.Schedule(w.ctx, "full")
		return err == nil && full.LastError != nil
	})
	if e := full.LastError; e.Reason != "full" || !strings.Contains(e.Detail, "cap of waiting jobs: 1 of 1") || full.LastJob != "" || !full.NextAt.After(time.Now()) {
		t.Errorf("%+v, next at %v", e, full.NextAt)
	}
	gone := w.schedule("gone", "the tick is refused", func(s api.Schedule) bool { return s.LastError != nil })
	if e := gone.LastError; e.Reason != "invalid" || !strings.Contains(e.Detail, "sandlot image pull vanished") {
		t.Errorf("%+v", e)
	}
	_, _, metrics := w.ask(http.MethodGet, "/metrics", "", "")
	for _, want := range []string{`sandlot_schedule_ticks_total{outcome="full",tenant="capped"} 1`, `sandlot_schedule_ticks_total{outcome="invalid",tenant="default"} 1`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestWhatIsWrongWithAScheduleIsNamed(t *testing.T) {
	w := newWorld(t, nil)
	for body, want := range map[string][]string{
		`{}`: {"cron is missing", "job is missing"},
		`[]`: {"the body is a list"},
		`{"cron":7,"job":{"image":"python","command":["true"]}}`:                                                                  {"cron is a number"},
		`{"cron":"0 25 * * *","job":{"image":"python","command":["true"]}}`:                                                       {`cron has the hour "25"`, "write 0-23"},
		`{"cron":"0 0 30 2 *","job":{"image":"python","command":["true"]}}`:                                                       {"cron never ticks"},
		`{"cron":"@every 1s","job":{"image":"python","command":["true"]}}`:                                                        {"cron may tick 1s after a tick; at least 10s"},
		`{"cron":"0 25 * * *","time_zone":"Mars","job":{"image":"python","command":["true"]}}`:                                    {"time_zone is not a time zone", `"Europe/Berlin"`, `cron has the hour "25"`},
		`{"cron":"@daily","missed":"all","overlap":"no","job":{"image":"python","command":["true"]}}`:                             {`missed write "once"`, `overlap write "allow"`},
		`{"cron":"@daily","crom":"x","job":{"image":"python","command":["true"]}}`:                                                {`crom is not a field; did you mean "cron"`},
		`{"cron":"@daily","job":"x"}`:                                                                                             {"job is a text"},
		`{"cron":"@daily","job":{"image":"python"}}`:                                                                              {"job nothing to run"},
		`{"cron":"@daily","job":{"image":"python","command":["true"],"limits":{"memory":1,"cpus":1}}}`:                            {"job.limits.memory", "job.limits.cpus"},
		`{"cron":"@daily","job":{"image":"nothere","command":["true"]}}`:                                                          {"job.image is not stored here"},
		`{"cron":"@daily","job":{"image":"python","command":["true"],"pool":"nowhere"}}`:                                          {"job.pool is not known"},
		`{"cron":"@daily","job":{"language":"cobol","code":"x"}}`:                                                                 {"job.language is not known"},
		`{"cron":"@daily","job":{"image":"python","command":["true"],"idempotency_key":"x","not_before":"2026-11-29T00:00:00Z"}}`: {"job.idempotency_key is for a job that is submitted once", "job.not_before is for"},
		`{"cron":"@daily","job":{"image":"python","command":["true"],"cron":"@daily"}}`:                                           {"job.cron is of a schedule"},
		`{"cron":"@daily","job":{"image":"python","command":["cat"],"stdin":"` + strings.Repeat("x", 33<<10) + `"}}`:              {"job has more than 32 KiB"},
	} {
		status, _, answer := w.ask(http.MethodPut, "/v1/schedules/x", "", body)
		var p api.Problem
		must(t, json.Unmarshal(answer, &p))
		text := p.Detail
		for _, e := range p.Errors {
			text += "\n" + e.Location + " " + e.Message
		}
		if status != http.StatusUnprocessableEntity && (status != http.StatusBadRequest || body != `[]`) {
			t.Errorf("%.90s: %d", body, status)
		}
		for _, one := range want {
			if !strings.Contains(text, one) {
				t.Errorf("%.90s: no %q in %s", body, one, text)
			}
		}
	}
	if status, _, answer := w.ask(http.MethodPut, "/v1/schedules/a.b", "", `{"cron":"@daily","job":{}}`); status != http.StatusUnprocessableEntity || !strings.Contains(string(answer), "write a name of letters") {
		t.Errorf("a bad name: %d %s", status, answer)
	}
	if list, err := w.client.Schedules(w.ctx); err != nil || len(list) != 0 {
		t.Errorf("%d schedules are stored, %v", len(list), err)
	}
}

func TestScheduleIsSetReadRunAndRemoved(t *testing.T) {
	w := newWorld(t, nil)
	w.work(1, succeed)
	made, err := w.client.SetSchedule(w.ctx, "nightly", nightly())
	must(t, err)
	if made.TimeZone != "UTC" || made.Missed != job.MissedOnce || made.Overlap != job.OverlapAllow || made.NextAt.Month() != time.January || made.Revision == 0 || string(made.Job) != string(scheduledJob) {
		t.Errorf("%+v", made)
	}
	in := nightly()
	in.TimeZone, in.Revision = "Asia/Tokyo", made.Revision
	moved, err := w.client.SetSchedule(w.ctx, "nightly", in)
	if err != nil || made.NextAt.Sub(moved.NextAt) != 9*time.Hour {
		t.Errorf("in Tokyo: %v after %v, %v", moved.NextAt, made.NextAt, err)
	}
	if _, err := w.client.SetSchedule(w.ctx, "nightly", in); problem(t, err).Status != http.StatusConflict {
		t.Errorf("an old revision: %v", err)
	}
	j, err := w.client.RunSchedule(w.ctx, "nightly", 10*time.Second)
	if err != nil || j.State != job.Succeeded || j.Schedule == nil || j.Schedule.Name != "nightly" || !j.Schedule.Manual || j.Labels["of"] != "test" {
		t.Fatalf("%+v, %v", j, err)
	}
	e, err := w.client.Explain(w.ctx, j.ID)
	if err != nil || !strings.HasPrefix(e.Sentences[0], "Schedule nightly submitted it by hand at 20") {
		t.Errorf("%q, %v", e.Sentences, err)
	}
	if s, err := w.client.Schedule(w.ctx, "nightly"); err != nil || s.LastJob != "" {
		t.Errorf("a run by hand is a tick: %+v, %v", s, err)
	}
	must(t, w.client.RemoveSchedule(w.ctx, "nightly"))
	for what, err := range map[string]error{
		"get":    errOf(w.client.Schedule(w.ctx, "nightly")),
		"remove": w.client.RemoveSchedule(w.ctx, "nightly"),
		"run":    errOf(w.client.RunSchedule(w.ctx, "nightly", 0)),
	} {
		if p := problem(t, err); p.Status != http.StatusNotFound || !strings.Contains(p.Detail, `no schedule "nightly"`) {
			t.Errorf("%s: %+v", what, p)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestSchedulesAreATenantsOwn(t *testing.T) {
	w := newWorld(t, nil)
	acme := w.tenant("acme", job.Share{})
	other := w.tenant("other", job.Share{})
	_, err := acme.SetSchedule(w.ctx, "x", nightly())
	must(t, err)
	in := nightly()
	in.Cron = "@every 1h"
	_, err = other.SetSchedule(w.ctx, "x", in)
	must(t, err)
	if s, err := acme.Schedule(w.ctx, "x"); err != nil || s.Cron != nightly().Cron {
		t.Errorf("%+v, %v", s, err)
	}
	must(t, other.RemoveSchedule(w.ctx, "x"))
	if err := other.RemoveSchedule(w.ctx, "x"); problem(t, err).Status != http.StatusNotFound {
		t.Error(err)
	}
	if list, err := acme.Schedules(w.ctx); err != nil || len(list) != 1 {
		t.Errorf("%d, %v", len(list), err)
	}
	if list, err := w.client.Schedules(w.ctx); err != nil || len(list) != 0 {
		t.Errorf("the default tenant has %d, %v", len(list), err)
	}
	w.since("y", "@every 1m", time.Now().Add(-90*time.Second), func(s *job.Schedule) { s.Tenant = "acme" })
	w.until("the tick has its job", func() bool {
		list, err := acme.List(w.ctx, client.ListOptions{Schedule: "y"})
		return err == nil && len(list.Jobs) == 1
	})
	if len(w.ofSchedule("y")) != 0 {
		t.Error("the job is another tenant's as well")
	}
	// They go with their tenant.
	must(t, w.client.RemoveTenant(w.ctx, "other"))
	list, err := acme.List(w.ctx, client.ListOptions{})
	must(t, err)
	for _, j := range list.Jobs {
		_, err := acme.Cancel(w.ctx, j.ID)
		must(t, err)
	}
	w.until("the tenant can go", func() bool { return w.client.RemoveTenant(w.ctx, "acme") == nil })
	if _, _, err := w.queue.Schedule(w.ctx, "acme", "x"); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("its schedule is left: %v", err)
	}
}

func TestATenantHasSoManySchedules(t *testing.T) {
	w := newWorld(t, nil)
	var some sync.WaitGroup
	for i := range 16 {
		some.Go(func() {
			for i := i; i < job.MaxSchedules; i += 16 {
				w.since(fmt.Sprintf("s%d", i), "0 3 1 1 *", time.Now(), nil)
			}
		})
	}
	some.Wait()
	w.until("all are known", func() bool {
		list, err := w.client.Schedules(w.ctx)
		return err == nil && len(list) == job.MaxSchedules
	})
	_, err := w.client.SetSchedule(w.ctx, "more", nightly())
	if p := problem(t, err); p.Status != http.StatusTooManyRequests || !strings.Contains(p.Detail, "has 1000 schedules") {
		t.Errorf("%+v", p)
	}
	if _, err := w.client.SetSchedule(w.ctx, "s7", nightly()); err != nil {
		t.Errorf("one that is there: %v", err)
	}
}

func TestSchedulesAreInABackup(t *testing.T) {
	old := newWorld(t, nil)
	old.since("due", "@every 1h", time.Now().Add(-90*time.Minute), func(s *job.Schedule) { s.Missed = job.MissedSkip })
	old.schedule("due", "its missed tick is dealt with", func(s api.Schedule) bool { return s.LastSkipped != nil })
	before, err := old.client.SetSchedule(old.ctx, "nightly", nightly())
	must(t, err)
	data := old.backUp()

	w := newWorld(t, nil)
	_, err = w.restore(data)
	must(t, err)
	after := w.schedule("nightly", "it is there", func(api.Schedule) bool { return true })
	before.Revision, after.Revision = 0, 0
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("%+v is %+v", before, after)
	}
	if due := w.schedule("due", "it is there", func(api.Schedule) bool { return true }); due.LastSkipped == nil || due.NextAt.Before(time.Now()) {
		t.Errorf("how far its ticks are dealt with is lost: %+v", due)
	}
}
