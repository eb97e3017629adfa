package scheduler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// handleDead lists dead jobs of a tenant, by their index.
func (s *Scheduler) handleDead(w http.ResponseWriter, r *http.Request) error {
	f, err := deadFilterOf(r)
	if err != nil {
		return err
	}
	ask := queue.DeadQuery{Tenant: tenantOf(r.Context()), Pool: f.Pool, Want: wantDead(f)}
	if ask.Limit, err = limitOf(r); err != nil {
		return err
	}
	if ask.After, err = placeIn(r.URL.Query().Get("cursor")); err != nil {
		return err
	}
	switch order := r.URL.Query().Get("order"); order {
	case "", "newest":
	case "oldest":
		ask.OldestFirst = true
	default:
		return invalid("order", clean(order), "write newest or oldest, for which comes first")
	}
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	page, more, err := s.Queue.Dead(r.Context(), ask)
	if err != nil {
		return err
	}
	list := api.DeadList{Jobs: []api.DeadJob{}}
	for _, d := range page {
		one, err := s.viewDead(r.Context(), d)
		if err != nil {
			return err
		}
		list.Jobs = append(list.Jobs, one)
	}
	if more {
		list.Next = strconv.FormatUint(page[len(page)-1].Place, 10)
	}
	return writeJSON(w, http.StatusOK, list)
}

// viewDead is an entry with what is known of the job by now.
func (s *Scheduler) viewDead(ctx context.Context, d queue.Dead) (api.DeadJob, error) {
	v := api.DeadJob{
		ID: d.ID, Pool: d.Pool, Class: d.Class, Queue: d.Queue, Batch: d.Batch, Key: d.Key, Image: d.Image.Name, Labels: d.Labels,
		Reason: d.Reason, Attempts: d.Attempt, AcceptedAt: d.AcceptedAt, DiedAt: d.UpdatedAt, RedriveOf: d.RedriveOf,
	}
	_, there, err := s.stateOf(ctx, d.ID)
	if err != nil {
		return v, err
	}
	v.Expired = !there
	v.RedrivenAs, v.RedrivenState, err = s.redrivenAs(ctx, d.ID)
	return v, err
}

// stateOf is where a job of the tenant stands: by the index, which knows all
// jobs unless it has had to drop some, else by its record. An item that has
// ended is there for as long as its batch is.
func (s *Scheduler) stateOf(ctx context.Context, id string) (state job.State, there bool, err error) {
	if state, known := s.index.state(id); known {
		return state, true, nil
	}
	if batch, _, item := job.Item(id); item {
		_, err := s.foldOf(ctx, batch)
		if errors.Is(err, job.ErrNotFound) {
			return "", false, nil
		}
		return job.Dead, err == nil, err
	}
	if !s.index.hasDropped() {
		return "", false, nil
	}
	rec, err := s.Queue.Get(ctx, tenantOf(ctx), id)
	if errors.Is(err, job.ErrNotFound) {
		return "", false, nil
	}
	return rec.State, err == nil, err
}

// redrivenAs is the last job that ran a dead one again, and where it stands.
func (s *Scheduler) redrivenAs(ctx context.Context, id string) (as string, state job.State, err error) {
	for range maxRedrives {
		next := redriveID(tenantOf(ctx), id)
		now, there, err := s.stateOf(ctx, next)
		if err != nil || !there {
			return as, state, err
		}
		as, state = next, now
		if state != job.Dead {
			return as, state, nil
		}
		id = next
	}
	return as, state, nil
}

// wantDead picks entries of the index; the pool is in their subject.
func wantDead(f api.DeadFilter) func(queue.Summary) bool {
	return func(s queue.Summary) bool {
		switch {
		case f.Job != "" && s.ID != f.Job, f.Queue != "" && s.Queue != f.Queue, f.Batch != "" && s.Batch != f.Batch,
			f.Reason != "" && s.Reason != f.Reason,
			!f.Since.IsZero() && s.UpdatedAt.Before(f.Since), !f.Until.IsZero() && !s.UpdatedAt.Before(f.Until):
			return false
		}
		return hasLabels(s.Labels, f.Labels)
	}
}

// hasLabels reports whether all that is wanted is there.
func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func deadFilterOf(r *http.Request) (f api.DeadFilter, err error) {
	q := r.URL.Query()
	f = api.DeadFilter{Job: q.Get("job"), Pool: q.Get("pool"), Queue: q.Get("queue"), Batch: q.Get("batch"), Reason: job.Reason(q.Get("reason"))}
	if f.Labels, err = labelsOf(r); err != nil {
		return f, err
	}
	if f.Since, err = momentOf(r, "since"); err != nil {
		return f, err
	}
	f.Until, err = momentOf(r, "until")
	return f, err
}

// momentOf reads a time of the query, zero if it is not there.
func momentOf(r *http.Request, name string) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, invalid(name, clean(text), "write a time as 2026-03-01T08:00:00Z")
	}
	return at, nil
}

// placeIn reads a cursor of the index of dead jobs.
func placeIn(cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	place, err := strconv.ParseUint(cursor, 10, 63)
	if err != nil || place == 0 {
		return 0, invalid("cursor", clean(cursor), "is not a cursor; take next of the page before")
	}
	return place, nil
}

func labelsOf(r *http.Request) (map[string]string, error) {
	labels := map[string]string{}
	for _, label := range r.URL.Query()["label"] {
		k, v, ok := strings.Cut(label, "=")
		if !ok {
			return nil, invalid("label", clean(label), "write name=value")
		}
		labels[k] = v
	}
	return labels, nil
}

// limitOf is how many entries a page may have.
func limitOf(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return 50, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return 0, invalid("limit", clean(text), "must be between 1 and 1000")
	}
	return n, nil
}

// explainRedrive says what of a job is about being dead and run again.
func (s *Scheduler) explainRedrive(ctx context.Context, rec job.Record) (before, after []string, err error) {
	if rec.RedriveOf != "" {
		before = append(before, fmt.Sprintf("It runs again what died as job %s.", rec.RedriveOf))
	}
	if rec.State != job.Dead {
		return before, nil, nil
	}
	as, state, err := s.redrivenAs(ctx, rec.ID)
	switch {
	case err != nil:
	case as == "" || state == job.Dead:
		after = append(after, fmt.Sprintf("It can be run again as a new job: `sandlot dead redrive %s`.", rec.ID))
	default:
		after = append(after, fmt.Sprintf("It was redriven as job %s, which is %s.", as, state))
	}
	return before, after, err
}
