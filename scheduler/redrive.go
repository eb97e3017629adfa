package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

const (
	// maxRedrives is how often one job may be redriven, each time because the
	// job of the time before was dead as well.
	maxRedrives = 100
	// redriveTime is about how long one request redrives; the client asks for
	// the rest.
	redriveTime = 15 * time.Second
)

// redriveID is the job that runs a dead one again. It is derived, so that the
// record itself is the arbiter of two redrives of one job.
func redriveID(tenant, dead string) string { return derivedID(tenant, "redrive", dead) }

// redriven is what a redrive comes to.
type redriven struct {
	rec job.Record
	// created: the job is new. In a dry run: it would be, and rec is empty.
	created bool
}

// handleRedrive runs a dead job again as a new one, or answers with the one
// that does so already.
func (s *Scheduler) handleRedrive(w http.ResponseWriter, r *http.Request) error {
	wait, err := s.waitOf(r)
	if err != nil {
		return err
	}
	done, err := s.redrive(telemetry.Extract(r.Context(), r.Header), r.PathValue("id"), false)
	if errors.Is(err, job.ErrNotFound) {
		return s.whyGone(r)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/jobs/"+done.rec.ID)
	return s.answerWithin(w, r, done.rec, wait)
}

// whyGone tells a dead job whose record is gone from one that never was.
func (s *Scheduler) whyGone(r *http.Request) error {
	id := r.PathValue("id")
	page, _, err := s.Queue.Dead(r.Context(), queue.DeadQuery{Tenant: tenantOf(r.Context()), Limit: 1, Want: wantDead(api.DeadFilter{Job: id})})
	if err != nil {
		return err
	}
	if len(page) == 0 {
		return job.ErrNotFound
	}
	return api.NewProblem(http.StatusGone, api.TypeGone, "job %s died at %s, and its record has expired or was removed since: what it was to run is not known any more; submit it anew", id, page[0].UpdatedAt.UTC().Format(time.RFC3339))
}

// handleRedriveMany redrives the dead jobs that a filter picks, the oldest
// first, until the limit, the end, or what stops it.
func (s *Scheduler) handleRedriveMany(w http.ResponseWriter, r *http.Request) error {
	in, err := decoded(s, w, r, api.DecodeRedrive)
	if err != nil {
		return err
	}
	after, err := placeIn(in.Cursor)
	if err != nil {
		return err
	}
	page, more, err := s.Queue.Dead(r.Context(), queue.DeadQuery{
		Tenant: tenantOf(r.Context()), Pool: in.Pool, OldestFirst: true, After: after, Limit: in.Limit, Want: wantDead(in.DeadFilter),
	})
	if err != nil {
		return err
	}
	out := api.Redriven{Skipped: map[string]int{}, Jobs: []api.RedriveAnswer{}, DryRun: in.DryRun}
	began := time.Now()
	for _, d := range page {
		if time.Since(began) > redriveTime {
			more = true
			break
		}
		answer, stopped := s.redriveOne(r.Context(), d.ID, in.DryRun)
		if err := r.Context().Err(); err != nil {
			return err
		}
		if stopped != nil {
			out.Stopped, more = stopped, true
			break
		}
		if out.Jobs = append(out.Jobs, answer); answer.Outcome == api.RedriveDone {
			out.Redriven++
		} else {
			out.Skipped[answer.Outcome]++
		}
		after = d.Place
	}
	if more && after > 0 {
		out.Next = strconv.FormatUint(after, 10)
	}
	return writeJSON(w, http.StatusOK, out)
}

// redriveOne redrives one of many; stopped says why the others must wait.
func (s *Scheduler) redriveOne(ctx context.Context, id string, dry bool) (answer api.RedriveAnswer, stopped *api.Problem) {
	answer = api.RedriveAnswer{ID: id, Outcome: api.RedriveDone}
	done, err := s.redrive(ctx, id, dry)
	if errors.Is(err, job.ErrNotFound) {
		answer.Outcome = api.RedriveExpired
		return answer, nil
	}
	if err != nil {
		p := s.lineProblem(ctx, err)
		if p.Status >= 500 || p.Status == http.StatusTooManyRequests {
			return answer, p
		}
		answer.Outcome, answer.Error = api.RedriveRefused, p
		return answer, nil
	}
	if answer.RedrivenAs = done.rec.ID; !done.created {
		answer.Outcome = api.RedriveKnown
	}
	return answer, nil
}

// redrive runs a dead job again. One that was redriven before is answered
// with that job, unless it is dead as well: then it is that one's turn.
// job.ErrNotFound: the record is gone.
func (s *Scheduler) redrive(ctx context.Context, id string, dry bool) (redriven, error) {
	if err := s.mayAccept(); err != nil {
		return redriven{}, err
	}
	dead, err := s.record(ctx, id)
	if err != nil {
		return redriven{}, err
	}
	if dead.State != job.Dead {
		return redriven{}, api.NewProblem(http.StatusConflict, api.TypeConflict, "job %s is %s; only a dead job is redriven, another is submitted again", dead.ID, dead.State)
	}
	for range maxRedrives {
		next, err := s.Queue.Get(ctx, dead.Tenant, redriveID(dead.Tenant, dead.ID))
		switch {
		case errors.Is(err, job.ErrNotFound):
			return s.runAgain(ctx, dead, dry)
		case err != nil:
			return redriven{}, fmt.Errorf("redrive job %s: %w", id, err)
		case next.State != job.Dead:
			return redriven{rec: next}, nil
		}
		dead = next
	}
	return redriven{}, api.NewProblem(http.StatusConflict, api.TypeConflict, "job %s was redriven %d times and died each time; find out why before you submit it again", id, maxRedrives)
}

// runAgain makes the job that follows a dead one. It is checked as a submit
// is, and the caps of the tenant hold for it.
func (s *Scheduler) runAgain(ctx context.Context, dead job.Record, dry bool) (redriven, error) {
	received := time.Now().UTC()
	ctx, recording := s.Telemetry.Job(ctx)
	ctx, stage := telemetry.StartAt(ctx, telemetry.Submit, received, attribute.String(telemetry.KeyJob, redriveID(dead.Tenant, dead.ID)))
	rec, err := s.draftAgain(ctx, dead)
	if err != nil || dry {
		stage.End(err)
		return redriven{created: err == nil}, err
	}
	rec.Timings.Submit = time.Now().UTC()
	stage.EndAt(rec.Timings.Submit, nil)
	rec.Spans = recording.Spans()

	ctx, stage = telemetry.Start(ctx, telemetry.Accept, attribute.String(telemetry.KeyJob, rec.ID))
	stored, created, err := s.accept(ctx, rec)
	stage.End(err)
	if created {
		s.metrics.redriven.WithLabelValues(rec.Tenant, rec.Queue).Inc()
	}
	return redriven{stored, created}, err
}

// draftAgain is the record of the job that runs a dead one again: of a job of
// its own, also when the dead one is an item of a batch.
func (s *Scheduler) draftAgain(ctx context.Context, dead job.Record) (job.Record, error) {
	spec, err := s.specOf(ctx, dead)
	if err != nil {
		return job.Record{}, err
	}
	at, err := s.place(ctx, spec)
	if err == nil {
		spec.Image.Digest, err = s.digestAgain(ctx, dead.Image)
	}
	if err != nil {
		return job.Record{}, err
	}
	rec := recordOf(&spec, dead.BodyHash)
	at.into(&rec)
	rec.ID, rec.Tenant, rec.RedriveOf = redriveID(dead.Tenant, dead.ID), dead.Tenant, dead.ID
	rec.TraceParent = telemetry.TraceParent(ctx)
	// It must be known for as long as the dead one is, or that could be
	// redriven twice.
	rec.Retention = max(s.retention(rec.Tenant), dead.Retention)
	return rec, nil
}

// digestAgain is the image that the dead job had, while it is stored, else
// what its name stands for now.
func (s *Scheduler) digestAgain(ctx context.Context, img job.Image) (string, error) {
	if img.Digest != "" {
		_, err := s.Queue.Stat(ctx, queue.Images, img.Digest)
		if err == nil {
			return img.Digest, nil
		}
		if !errors.Is(err, job.ErrNotFound) {
			return "", fmt.Errorf("look for image %s: %w", img.Name, err)
		}
	}
	return s.digest(ctx, img.Name)
}

// specOf is what a job was to run.
func (s *Scheduler) specOf(ctx context.Context, rec job.Record) (job.Spec, error) {
	var spec job.Spec
	if rec.Spec != nil {
		return *rec.Spec, nil
	}
	gone := api.NewProblem(http.StatusGone, api.TypeGone, "the inputs of job %s are not stored any more; submit it anew", rec.ID)
	if rec.SpecRef == "" {
		return spec, gone // an item of which only the verdict is left
	}
	object, _, err := s.Queue.Open(ctx, queue.Inputs, rec.SpecRef)
	if errors.Is(err, job.ErrNotFound) {
		return spec, gone
	}
	if err != nil {
		return spec, fmt.Errorf("open spec of job %s: %w", rec.ID, err)
	}
	defer object.Close()
	if err := json.NewDecoder(object).Decode(&spec); err != nil {
		return spec, fmt.Errorf("read spec of job %s: %w", rec.ID, err)
	}
	return spec, nil
}
