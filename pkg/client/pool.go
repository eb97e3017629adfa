package client

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Pools lists the pools, and what waits and runs in each.
func (c *Client) Pools(ctx context.Context) ([]api.Pool, error) {
	var p api.Pools
	err := c.call(ctx, request{path: path("pools")}, &p)
	return p.Pools, err
}

// Pool is one of them.
func (c *Client) Pool(ctx context.Context, name string) (api.Pool, error) {
	var p api.Pool
	return p, c.call(ctx, request{path: path("pools", name)}, &p)
}

// SetPool makes a pool, or sets its classes. For the operator.
func (c *Client) SetPool(ctx context.Context, name string, settings api.PoolSettings) (api.Pool, error) {
	var p api.Pool
	return p, c.put(ctx, path("pools", name), settings, &p)
}

// RemovePool removes a pool in which nothing waits or runs. For the operator.
func (c *Client) RemovePool(ctx context.Context, name string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("pools", name)}, nil)
}

// Drain has a worker finish what it runs, take no more, and leave. What runs
// at the deadline is given to others; 0 waits for ever, less stops it at once.
func (c *Client) Drain(ctx context.Context, worker string, deadline time.Duration) (api.Worker, error) {
	var in api.Drain
	if deadline != 0 {
		d := job.MillisOf(max(deadline, 0))
		in.Deadline = &d
	}
	var w api.Worker
	body, err := json.Marshal(in)
	if err != nil {
		return w, err
	}
	return w, c.call(ctx, request{method: http.MethodPost, path: path("workers", worker, "drain"), body: body, contentType: "application/json"}, &w)
}

// Undrain has a worker that is drained and has not left take jobs again.
func (c *Client) Undrain(ctx context.Context, worker string) (api.Worker, error) {
	var w api.Worker
	return w, c.call(ctx, request{method: http.MethodPost, path: path("workers", worker, "undrain")}, &w)
}

// ReleaseWorker lets a worker out of quarantine.
func (c *Client) ReleaseWorker(ctx context.Context, worker string) (api.Worker, error) {
	var w api.Worker
	return w, c.call(ctx, request{method: http.MethodPost, path: path("workers", worker, "release")}, &w)
}
