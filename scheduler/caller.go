package scheduler

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// caller is who sent a request, as its token says.
type caller struct {
	// tenant is whose jobs the request is about.
	tenant string
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

// authenticate finds out who sent a request. Digests are compared, so that
// the time taken tells nothing of the token, nor of its length.
func (s *Scheduler) authenticate(r *http.Request) (caller, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(s.Token))
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return caller{}, api.NewProblem(http.StatusUnauthorized, api.TypeUnauthorized, "the token is missing or wrong; send the header Authorization: Bearer TOKEN")
	}
	return caller{tenant: job.DefaultTenant}, nil
}
