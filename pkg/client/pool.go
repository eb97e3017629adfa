package client

import (
	"context"
	"net/http"

	"github.com/sandlot-dev/sandlot/pkg/api"
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
