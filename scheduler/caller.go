package scheduler

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// caller is who sent a request, as its token says.
type caller struct {
	// tenant is whose jobs the request is about.
	tenant string
	// operator may do everything; a tenant only what concerns itself alone.
	operator bool
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// tenantOf is whose jobs ctx is about; the default tenant where nobody asked.
func tenantOf(ctx context.Context) string {
	if c, ok := ctx.Value(callerKey{}).(caller); ok {
		return c.tenant
	}
	return job.DefaultTenant
}

// isOperator reports whether the operator sent the request of ctx.
func isOperator(ctx context.Context) bool {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.operator
}

// operatorOnly keeps tenants from what is not theirs alone.
func operatorOnly(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !isOperator(r.Context()) {
			return forbidden("this is for the operator; the token speaks for tenant %q alone", tenantOf(r.Context()))
		}
		return h(w, r)
	}
}

func forbidden(format string, args ...any) *api.Problem {
	return api.NewProblem(http.StatusForbidden, api.TypeForbidden, format, args...)
}

// authenticate finds out who sent a request: the operator, whose token may
// name a tenant, or a tenant. Digests are compared, so that the time taken
// tells nothing of the token, nor of its length.
func (s *Scheduler) authenticate(r *http.Request) (caller, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	named := r.Header.Get(api.TenantHeader)
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.Token))
	if strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		return s.operatorAs(r.Context(), named)
	}
	if err := s.settingsRead(r.Context()); err != nil {
		return caller{}, err
	}
	tenant, ok := s.settings.tenantOfToken(token)
	switch {
	case !ok || !strings.EqualFold(scheme, "Bearer"):
		return caller{}, api.NewProblem(http.StatusUnauthorized, api.TypeUnauthorized, "the token is missing or wrong; send the header Authorization: Bearer TOKEN")
	case named != "" && named != tenant:
		return caller{}, forbidden("the token speaks for tenant %q, not for %q; leave out the header %s", tenant, clean(named), api.TenantHeader)
	}
	return caller{tenant: tenant}, nil
}

// operatorAs is the operator on behalf of a tenant.
func (s *Scheduler) operatorAs(ctx context.Context, tenant string) (caller, error) {
	if tenant == "" {
		tenant = job.DefaultTenant
	}
	if tenant != job.DefaultTenant {
		if err := s.settingsRead(ctx); err != nil {
			return caller{}, err
		}
	}
	if _, ok := s.settings.tenant(tenant); !ok {
		return caller{}, unknownTenant(tenant)
	}
	return caller{tenant: tenant, operator: true}, nil
}

func unknownTenant(id string) *api.Problem {
	return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "there is no tenant %q; the operator makes one with `sandlot tenants set %s`", clean(id), clean(id))
}

// settingsRead waits until all settings that there were at the start are
// known: until then a tenant cannot be told from one that is not there.
func (s *Scheduler) settingsRead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if s.settings.await(ctx, func() bool { return s.settings.listed }) != nil {
		return busy(http.StatusServiceUnavailable, api.TypeUnavailable, time.Second, "the scheduler has just started and is still reading its settings")
	}
	return nil
}
