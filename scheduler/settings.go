package scheduler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"sync"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// settings is what is set for tenants, queues, schedules and images, kept by
// one fold over queue.WatchSettings: every scheduler knows all of it within
// moments.
type settings struct {
	mu      sync.RWMutex
	tenants map[string]tenantSetting
	queues  map[scoped]queueSetting
	// schedules of all tenants.
	schedules map[scoped]scheduleSetting
	tokens    map[string]string         // tenants, by the digests of their tokens
	prefer    map[string]job.Preference // by image
	listed    bool
	filling   bool // a backup is being restored
	revision  uint64
	// changed is closed and replaced at each change.
	changed chan struct{}
}

type tenantSetting struct {
	job.Tenant
	revision uint64
}

type queueSetting struct {
	job.Queue
	revision uint64
}

func newSettings() *settings {
	return &settings{
		tenants: map[string]tenantSetting{}, queues: map[scoped]queueSetting{}, schedules: map[scoped]scheduleSetting{},
		tokens: map[string]string{}, prefer: map[string]job.Preference{}, changed: make(chan struct{}),
	}
}

// apply folds one change in.
func (s *settings) apply(c queue.SettingChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.Listed:
		s.listed = true
	case c.Restoring != nil:
		s.filling = !c.Removed
	case c.Tenant != nil:
		for _, t := range s.tenants[c.Tenant.ID].Tokens {
			delete(s.tokens, t.SHA256)
		}
		delete(s.tenants, c.Tenant.ID)
		if !c.Removed {
			s.tenants[c.Tenant.ID] = tenantSetting{*c.Tenant, c.Revision}
			for _, t := range c.Tenant.Tokens {
				s.tokens[t.SHA256] = c.Tenant.ID
			}
		}
	case c.Preference != nil:
		delete(s.prefer, c.Preference.Image)
		if !c.Removed {
			s.prefer[c.Preference.Image] = *c.Preference
		}
	case c.Queue != nil:
		name := scoped{c.Queue.Tenant, c.Queue.Name}
		delete(s.queues, name)
		if !c.Removed {
			s.queues[name] = queueSetting{*c.Queue, c.Revision}
		}
	case c.Schedule != nil:
		name := scoped{c.Schedule.Tenant, c.Schedule.Name}
		delete(s.schedules, name)
		if !c.Removed {
			s.schedules[name] = newScheduleSetting(*c.Schedule, c.Revision)
		}
	}
	s.revision = max(s.revision, c.Revision)
	close(s.changed)
	s.changed = make(chan struct{})
}

// changes is closed at the next change.
func (s *settings) changes() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// await waits until ok, which is called under the lock.
func (s *settings) await(ctx context.Context, ok func() bool) error {
	for {
		s.mu.RLock()
		done, changed := ok(), s.changed
		s.mu.RUnlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tenant is what is set for a tenant; false if there is none of that name.
func (s *settings) tenant(id string) (tenantSetting, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, ok := s.tenants[id]
	if !ok {
		t.ID = id
	}
	return t, ok || id == job.DefaultTenant
}

// queue is what is set for a queue, nothing where nothing is.
func (s *settings) queue(tenant, name string) queueSetting {
	s.mu.RLock()
	defer s.mu.RUnlock()
	q, ok := s.queues[scoped{tenant, name}]
	if !ok {
		q.Tenant, q.Name = tenant, name
	}
	return q
}

// preference is what is set for an image; false if nothing is.
func (s *settings) preference(image string) (job.Preference, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.prefer[image]
	return p, ok
}

// share is what is set for a tenant, or for a queue of it.
func (s *settings) share(tenant, queue string) job.Share {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if queue == "" {
		return s.tenants[tenant].Share
	}
	return s.queues[scoped{tenant, queue}].Share
}

// version is another one after each change; never 0.
func (s *settings) version() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision + 1
}

// anyCap reports whether what some of the lanes may have running is capped.
func (s *settings) anyCap(lanes []waiting) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range lanes {
		if s.tenants[l.Tenant].MaxRunning > 0 || s.queues[scoped{l.Tenant, l.Queue}].MaxRunning > 0 {
			return true
		}
	}
	return false
}

// tenantIDs lists the tenants, the default one among them.
func (s *settings) tenantIDs() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := slices.Collect(maps.Keys(s.tenants))
	if _, ok := s.tenants[job.DefaultTenant]; !ok {
		ids = append(ids, job.DefaultTenant)
	}
	slices.Sort(ids)
	return ids
}

// queueNames lists the queues of a tenant for which something is set.
func (s *settings) queueNames(tenant string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for q := range s.queues {
		if q.tenant == tenant {
			names = append(names, q.name)
		}
	}
	return names
}

// tenantOfToken is who a token speaks for. Digests are looked up, so that the
// time it takes tells nothing of any token.
func (s *settings) tenantOfToken(token string) (string, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	id, ok := s.tokens[digestOf(token)]
	return id, ok
}

func digestOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
