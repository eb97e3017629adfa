package scheduler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// handleQueues lists the queues of a tenant: those with jobs, and those for
// which something is set.
func (s *Scheduler) handleQueues(w http.ResponseWriter, r *http.Request) error {
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	tenant := tenantOf(r.Context())
	list := s.index.queueList(tenant)
	for _, name := range s.settings.queueNames(tenant) {
		if !slices.ContainsFunc(list, func(q api.Queue) bool { return q.Name == name }) {
			list = append(list, api.Queue{Name: name})
		}
	}
	slices.SortFunc(list, func(a, b api.Queue) int { return strings.Compare(a.Name, b.Name) })
	for i := range list {
		set := s.settings.queue(tenant, list[i].Name)
		list[i].Share, list[i].Revision = set.Share, set.revision
		list[i].Weight = set.Parts()
	}
	return writeJSON(w, http.StatusOK, api.Queues{Queues: list})
}

// handlePutQueue sets what a queue may take of its tenant's share, which is
// the tenant's own business.
func (s *Scheduler) handlePutQueue(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("queue")
	if why := api.BadQueue(name); why != "" {
		return invalid("queue", clean(name), "%s", why)
	}
	in, err := decoded(s, w, r, api.DecodeQueueSettings)
	if err != nil {
		return err
	}
	set, err := s.setQueue(r.Context(), job.Queue{Tenant: tenantOf(r.Context()), Name: name, Share: in.Share}, in.Revision)
	if err != nil {
		return err
	}
	v := api.Queue{Name: name, Share: set.Share, Revision: set.revision}
	v.Weight = set.Parts()
	v.Queued, v.Running = s.index.unfinished(set.Tenant, name)
	return writeJSON(w, http.StatusOK, v)
}

func (s *Scheduler) setQueue(ctx context.Context, set job.Queue, revision uint64) (queueSetting, error) {
	for {
		_, have, err := s.Queue.QueueOf(ctx, set.Tenant, set.Name)
		switch {
		case errors.Is(err, job.ErrNotFound):
			have = 0
		case err != nil:
			return queueSetting{}, fmt.Errorf("read queue: %w", err)
		}
		if revision != 0 && revision != have {
			return queueSetting{}, changedMeanwhile(have)
		}
		stored, now, err := s.Queue.SetQueue(ctx, set, have)
		if errors.Is(err, queue.ErrChanged) {
			continue
		}
		if err != nil {
			return queueSetting{}, fmt.Errorf("set queue: %w", err)
		}
		return queueSetting{stored, now}, s.settings.await(ctx, func() bool { return s.settings.revision >= now })
	}
}

// handleDeleteQueue forgets what is set for a queue; its jobs stay.
func (s *Scheduler) handleDeleteQueue(w http.ResponseWriter, r *http.Request) error {
	tenant, name := tenantOf(r.Context()), r.PathValue("queue")
	for {
		_, have, err := s.Queue.QueueOf(r.Context(), tenant, name)
		if errors.Is(err, job.ErrNotFound) {
			return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "nothing is set for a queue %q of tenant %q", clean(name), tenant)
		}
		if err != nil {
			return fmt.Errorf("read queue: %w", err)
		}
		err = s.Queue.RemoveQueue(r.Context(), tenant, name, have)
		if errors.Is(err, queue.ErrChanged) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove queue: %w", err)
		}
		err = s.settings.await(r.Context(), func() bool { _, there := s.settings.queues[scoped{tenant, name}]; return !there })
		if err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}
