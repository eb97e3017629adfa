package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// CancelMany orders the end of all jobs that a filter picks and that were
// accepted before. With wait > 0 the server holds the answer back until the
// order is finished or the time is over. Doing it twice is two orders, of
// which the second finds less to do.
func (c *Client) CancelMany(ctx context.Context, in api.Cancel, wait time.Duration) (api.CancelOrder, error) {
	var o api.CancelOrder
	body, err := json.Marshal(in)
	if err != nil {
		return o, fmt.Errorf("encode cancel: %w", err)
	}
	return o, c.call(ctx, request{method: http.MethodPost, path: path("cancels"), query: waitQuery(wait), body: body, contentType: "application/json", once: true}, &o)
}

// CancelOrder is how far an order is, once it is finished or wait is over.
func (c *Client) CancelOrder(ctx context.Context, id string, wait time.Duration) (api.CancelOrder, error) {
	var o api.CancelOrder
	return o, c.call(ctx, request{path: path("cancels", id), query: waitQuery(wait)}, &o)
}
