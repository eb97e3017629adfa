package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// DeadOptions say which dead jobs are listed; the zero value lists all.
type DeadOptions struct {
	api.DeadFilter
	// OldestFirst turns the order around, which is newest first.
	OldestFirst bool
	Limit       int
	// Cursor is the Next of the page before.
	Cursor string
}

// Dead answers with one page of dead jobs.
func (c *Client) Dead(ctx context.Context, o DeadOptions) (api.DeadList, error) {
	q := url.Values{}
	for name, value := range map[string]string{
		"job": o.Job, "pool": o.Pool, "queue": o.Queue, "batch": o.Batch, "reason": string(o.Reason), "cursor": o.Cursor,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"since": o.Since, "until": o.Until} {
		if !at.IsZero() {
			q.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	for k, v := range o.Labels {
		q.Add("label", k+"="+v)
	}
	if o.OldestFirst {
		q.Set("order", "oldest")
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	var list api.DeadList
	return list, c.call(ctx, request{path: path("dead"), query: q}, &list)
}

// Redrive runs a dead job again as a new one, which it answers with. Doing it
// twice answers with the same job, unless that one has died as well.
func (c *Client) Redrive(ctx context.Context, id string) (api.Job, error) {
	var j api.Job
	return j, c.call(ctx, request{method: http.MethodPost, path: path("jobs", id, "redrive")}, &j)
}

// RedriveDead runs dead jobs again that a filter picks, as many as its limit
// says. Send it again with the answer's Next as its Cursor to go on.
func (c *Client) RedriveDead(ctx context.Context, in api.Redrive) (api.Redriven, error) {
	var out api.Redriven
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("encode redrive: %w", err)
	}
	return out, c.call(ctx, request{method: http.MethodPost, path: path("dead", "redrive"), body: body, contentType: "application/json"}, &out)
}
