package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// CallbackSecret signs what a tenant is told by callbacks.
type CallbackSecret struct {
	Schema int    `json:"schema"`
	Secret string `json:"secret"`
	// Former is the one before, which still signs for a day after a change.
	Former    string    `json:"former,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

func secretKey(tenant string) string { return "callback." + tenant }

// Callbacks is the secret of a tenant's callbacks, made when it is first asked
// for.
func (q *Queue) Callbacks(ctx context.Context, tenant string) (CallbackSecret, error) {
	return q.callbackSecret(ctx, tenant, func(s CallbackSecret) bool { return s.Secret == "" })
}

// RotateCallbacks gives a tenant another secret.
func (q *Queue) RotateCallbacks(ctx context.Context, tenant string) (CallbackSecret, error) {
	return q.callbackSecret(ctx, tenant, func(CallbackSecret) bool { return true })
}

func (q *Queue) callbackSecret(ctx context.Context, tenant string, anew func(CallbackSecret) bool) (CallbackSecret, error) {
	if err := checkToken(tenant); err != nil {
		return CallbackSecret{}, fmt.Errorf("callback secret: %w", err)
	}
	for {
		var s CallbackSecret
		revision, err := q.readSetting(ctx, secretKey(tenant), &s)
		if err != nil && !errors.Is(err, job.ErrNotFound) {
			return s, fmt.Errorf("callback secret of %s: %w", tenant, err)
		}
		if !anew(s) {
			return s, nil
		}
		s = CallbackSecret{Schema: job.Schema, Secret: "whsec_" + rand.Text(), Former: s.Secret, CreatedAt: time.Now().UTC()}
		if _, err = q.writeSetting(ctx, secretKey(tenant), s, revision); errors.Is(err, ErrChanged) {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("callback secret of %s: %w", tenant, err)
		}
		return s, nil
	}
}
