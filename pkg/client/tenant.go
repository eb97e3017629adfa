package client

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// Tenants lists the tenants. For the operator.
func (c *Client) Tenants(ctx context.Context) ([]api.Tenant, error) {
	var t api.Tenants
	err := c.call(ctx, request{path: path("tenants")}, &t)
	return t.Tenants, err
}

// Tenant is one of them. A tenant's token may ask for its own.
func (c *Client) Tenant(ctx context.Context, id string) (api.Tenant, error) {
	var t api.Tenant
	return t, c.call(ctx, request{path: path("tenants", id)}, &t)
}

// SetTenant makes a tenant, or sets what it may take. For the operator.
func (c *Client) SetTenant(ctx context.Context, id string, settings api.TenantSettings) (api.Tenant, error) {
	var t api.Tenant
	return t, c.put(ctx, path("tenants", id), settings, &t)
}

// RemoveTenant removes a tenant that has no jobs left to run. For the operator.
func (c *Client) RemoveTenant(ctx context.Context, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("tenants", id)}, nil)
}

// NewToken makes a token that speaks for a tenant; the secret is told only
// here. For the operator.
func (c *Client) NewToken(ctx context.Context, tenant, name string) (api.Token, error) {
	var t api.Token
	body, err := json.Marshal(api.NewToken{Name: name})
	if err != nil {
		return t, err
	}
	// A second one would be another token.
	r := request{method: http.MethodPost, path: path("tenants", tenant, "tokens"), body: body, contentType: "application/json", once: true}
	return t, c.call(ctx, r, &t)
}

// RemoveToken has a token end to be valid, by its id. For the operator.
func (c *Client) RemoveToken(ctx context.Context, tenant, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("tenants", tenant, "tokens", id)}, nil)
}

// Queues lists the queues of the tenant.
func (c *Client) Queues(ctx context.Context) ([]api.Queue, error) {
	var q api.Queues
	err := c.call(ctx, request{path: path("queues")}, &q)
	return q.Queues, err
}

// SetQueue sets what a queue may take of its tenant's share.
func (c *Client) SetQueue(ctx context.Context, name string, settings api.QueueSettings) (api.Queue, error) {
	var q api.Queue
	return q, c.put(ctx, path("queues", name), settings, &q)
}

// ResetQueue forgets what is set for a queue.
func (c *Client) ResetQueue(ctx context.Context, name string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("queues", name)}, nil)
}

// put stores settings and reads the answer.
func (c *Client) put(ctx context.Context, path string, settings, out any) error {
	body, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodPut, path: path, body: body, contentType: "application/json"}, out)
}
