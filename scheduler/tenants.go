package scheduler

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func (s *Scheduler) handleTenants(w http.ResponseWriter, r *http.Request) error {
	if err := s.settingsRead(r.Context()); err != nil {
		return err
	}
	list := []api.Tenant{}
	for _, id := range s.settings.tenantIDs() {
		if t, ok := s.settings.tenant(id); ok {
			list = append(list, s.viewTenant(t))
		}
	}
	return writeJSON(w, http.StatusOK, api.Tenants{Tenants: list})
}

// handleTenant shows a tenant to the operator, and to itself.
func (s *Scheduler) handleTenant(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("tenant")
	if !isOperator(r.Context()) && id != tenantOf(r.Context()) {
		return forbidden("the token speaks for tenant %q alone", tenantOf(r.Context()))
	}
	if err := s.settingsRead(r.Context()); err != nil {
		return err
	}
	t, ok := s.settings.tenant(id)
	if !ok {
		return unknownTenant(id)
	}
	return writeJSON(w, http.StatusOK, s.viewTenant(t))
}

func (s *Scheduler) viewTenant(t tenantSetting) api.Tenant {
	v := api.Tenant{ID: t.ID, Share: t.Share, Retention: t.Retention, Revision: t.revision, UpdatedAt: t.UpdatedAt}
	v.Weight = t.Parts()
	for _, one := range t.Tokens {
		v.Tokens = append(v.Tokens, api.Token{ID: one.ID, Name: one.Name, CreatedAt: one.CreatedAt})
	}
	v.Queued, v.Running = s.index.unfinished(t.ID, "")
	return v
}

func (s *Scheduler) handlePutTenant(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("tenant")
	if why := api.BadTenant(id); why != "" {
		return invalid("tenant", clean(id), "%s", why)
	}
	in, err := decoded(s, w, r, api.DecodeTenantSettings)
	if err != nil {
		return err
	}
	set, err := s.changeTenant(r.Context(), id, in.Revision, true, func(t *job.Tenant) error {
		t.Share, t.Retention = in.Share, in.Retention
		return nil
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.viewTenant(set))
}

// changeTenant changes what is set for a tenant by compare-and-set, again if
// somebody else was faster, unless revision says which settings are meant.
// make allows a tenant that is not there yet.
func (s *Scheduler) changeTenant(ctx context.Context, id string, revision uint64, make bool, change func(*job.Tenant) error) (tenantSetting, error) {
	for {
		t, have, err := s.Queue.Tenant(ctx, id)
		switch {
		case errors.Is(err, job.ErrNotFound) && (make || id == job.DefaultTenant):
			t, have = job.Tenant{ID: id}, 0
		case errors.Is(err, job.ErrNotFound):
			return tenantSetting{}, unknownTenant(id)
		case err != nil:
			return tenantSetting{}, fmt.Errorf("read tenant: %w", err)
		}
		if revision != 0 && revision != have {
			return tenantSetting{}, changedMeanwhile(have)
		}
		if err := change(&t); err != nil {
			return tenantSetting{}, err
		}
		t, have, err = s.Queue.SetTenant(ctx, t, have)
		if errors.Is(err, queue.ErrChanged) {
			continue
		}
		if err != nil {
			return tenantSetting{}, fmt.Errorf("change tenant: %w", err)
		}
		return tenantSetting{t, have}, s.settings.await(ctx, func() bool { return s.settings.revision >= have })
	}
}

func changedMeanwhile(revision uint64) *api.Problem {
	return api.NewProblem(http.StatusConflict, api.TypeConflict, "the settings are at revision %d now; read them again and repeat the change", revision)
}

func (s *Scheduler) handleDeleteTenant(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("tenant")
	if id == job.DefaultTenant {
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "the tenant %q is always there; set it to {} to have nothing set for it", id)
	}
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	_, revision, err := s.Queue.Tenant(r.Context(), id)
	if errors.Is(err, job.ErrNotFound) {
		return unknownTenant(id)
	}
	if err != nil {
		return fmt.Errorf("read tenant: %w", err)
	}
	if queued, running := s.index.unfinished(id, ""); queued+running > 0 {
		return api.NewProblem(http.StatusConflict, api.TypeNotFinal, "%s of tenant %q have not ended; cancel them or wait for their end", jobs(queued+running), id)
	}
	if err := s.Queue.RemoveTenant(r.Context(), id, revision); err != nil {
		if errors.Is(err, queue.ErrChanged) {
			return api.NewProblem(http.StatusConflict, api.TypeConflict, "the settings of tenant %q were changed at the same time; try again", id)
		}
		return fmt.Errorf("remove tenant: %w", err)
	}
	err = s.settings.await(r.Context(), func() bool { _, there := s.settings.tenants[id]; return !there })
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tokenPrefix lets people and scanners see what a secret is.
const tokenPrefix = "sandlot_"

// handleNewToken makes a secret that speaks for a tenant. It is told once;
// what is kept is its digest.
func (s *Scheduler) handleNewToken(w http.ResponseWriter, r *http.Request) error {
	in, err := decoded(s, w, r, api.DecodeNewToken)
	if err != nil {
		return err
	}
	secret, id := make([]byte, 24), make([]byte, 4)
	_, _ = rand.Read(secret) // never fails
	_, _ = rand.Read(id)
	answer := api.Token{
		ID: hex.EncodeToString(id), Name: in.Name, CreatedAt: time.Now().UTC(),
		Token: tokenPrefix + base64.RawURLEncoding.EncodeToString(secret),
	}
	_, err = s.changeTenant(r.Context(), r.PathValue("tenant"), 0, false, func(t *job.Tenant) error {
		if len(t.Tokens) >= api.MaxTokens {
			return api.NewProblem(http.StatusConflict, api.TypeConflict, "tenant %q has %d tokens, which is all that it may have; remove one first", t.ID, len(t.Tokens))
		}
		t.Tokens = append(t.Tokens, job.Token{ID: answer.ID, Name: in.Name, SHA256: digestOf(answer.Token), CreatedAt: answer.CreatedAt})
		return nil
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, answer)
}

func (s *Scheduler) handleDeleteToken(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("token")
	_, err := s.changeTenant(r.Context(), r.PathValue("tenant"), 0, false, func(t *job.Tenant) error {
		at := slices.IndexFunc(t.Tokens, func(one job.Token) bool { return one.ID == id })
		if at < 0 {
			return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "tenant %q has no token with the id %q", t.ID, clean(id))
		}
		t.Tokens = slices.Delete(t.Tokens, at, at+1)
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
