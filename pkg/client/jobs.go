package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Submit asks for a job. With wait > 0 the server holds the answer back until
// the job has ended or the time is over, whichever is first. A submit without
// an idempotency key gets one, so that repeating it cannot run it twice.
func (c *Client) Submit(ctx context.Context, s api.Submit, wait time.Duration) (api.Job, error) {
	if s.IdempotencyKey == "" {
		s.IdempotencyKey = "auto-" + uuid.NewString()
	}
	body, err := json.Marshal(s)
	if err != nil {
		return api.Job{}, fmt.Errorf("encode submit: %w", err)
	}
	return c.SubmitJSON(ctx, body, "", wait)
}

// SubmitJSON is Submit for a body that is JSON already; it goes to the server
// as it is. It is repeated safely only with an idempotency key, in the body or
// given here.
func (c *Client) SubmitJSON(ctx context.Context, body []byte, idempotencyKey string, wait time.Duration) (api.Job, error) {
	var j api.Job
	r := request{method: http.MethodPost, path: path("jobs"), query: waitQuery(wait), body: body, contentType: "application/json"}
	if idempotencyKey != "" {
		r.header = http.Header{"Idempotency-Key": {idempotencyKey}}
	}
	var peek struct {
		Key string `json:"idempotency_key"`
	}
	r.once = idempotencyKey == "" && (json.Unmarshal(body, &peek) != nil || peek.Key == "")
	return j, c.call(ctx, r, &j)
}

// Get answers with the job as it stands.
func (c *Client) Get(ctx context.Context, id string) (api.Job, error) {
	var j api.Job
	return j, c.call(ctx, request{path: path("jobs", id)}, &j)
}

// Wait returns the job once it has ended. It asks again for as long as ctx
// lasts, across restarts of the server.
func (c *Client) Wait(ctx context.Context, id string) (api.Job, error) {
	for {
		var j api.Job
		err := c.call(ctx, request{path: path("jobs", id), query: waitQuery(waitStep), patience: forever}, &j)
		if err != nil || j.State.Final() {
			return j, err
		}
	}
}

// waitStep is how long one request of Wait is held by the server.
const waitStep = 20 * time.Second

// ListOptions are filters; the zero value lists all.
type ListOptions struct {
	State  job.State
	Queue  string
	Batch  string
	Reason job.Reason
	// Schedule is the name of one.
	Schedule string
	// Labels must all match.
	Labels map[string]string
	Limit  int
	// Cursor is the Next of the page before.
	Cursor string
}

// List answers with one page of jobs, newest first.
func (c *Client) List(ctx context.Context, o ListOptions) (api.List, error) {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("state", string(o.State))
	set("queue", o.Queue)
	set("batch", o.Batch)
	set("reason", string(o.Reason))
	set("schedule", o.Schedule)
	set("cursor", o.Cursor)
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	for k, v := range o.Labels {
		q.Add("label", k+"="+v)
	}
	var list api.List
	return list, c.call(ctx, request{path: path("jobs"), query: q}, &list)
}

// Cancel asks for the end of a job and answers with it as it stands then.
func (c *Client) Cancel(ctx context.Context, id string) (api.Job, error) {
	var j api.Job
	return j, c.call(ctx, request{method: http.MethodPost, path: path("jobs", id, "cancel")}, &j)
}

// Remove deletes a job that has ended, with its outputs.
func (c *Client) Remove(ctx context.Context, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("jobs", id)}, nil)
}

// Trace answers with the waterfall of a job.
func (c *Client) Trace(ctx context.Context, id string) (api.Trace, error) {
	var t api.Trace
	return t, c.call(ctx, request{path: path("jobs", id, "trace")}, &t)
}

// Explain answers with sentences on why the job stands where it stands.
func (c *Client) Explain(ctx context.Context, id string) (api.Explain, error) {
	var e api.Explain
	return e, c.call(ctx, request{path: path("jobs", id, "explain")}, &e)
}

// Artifacts lists what a job left behind.
func (c *Client) Artifacts(ctx context.Context, id string) ([]job.Artifact, error) {
	var a api.Artifacts
	return a.Artifacts, c.call(ctx, request{path: path("jobs", id, "artifacts")}, &a)
}

// Artifact opens one file that a job left behind. The caller closes it.
func (c *Client) Artifact(ctx context.Context, id, name string) (io.ReadCloser, error) {
	return c.open(ctx, request{path: path("jobs", id, "artifacts") + "/" + escapePath(name)})
}

// Output opens all that a step wrote to "stdout" or "stderr". The caller
// closes it. Steps count from 0.
func (c *Client) Output(ctx context.Context, id string, step int, stream string) (io.ReadCloser, error) {
	return c.open(ctx, request{path: path("jobs", id, "steps", strconv.Itoa(step), stream)})
}

func waitQuery(wait time.Duration) url.Values {
	if wait <= 0 {
		return nil
	}
	return url.Values{"wait": {wait.String()}}
}
