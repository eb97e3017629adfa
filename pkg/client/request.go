package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// request is one call before it is sent.
type request struct {
	method      string // GET by default
	path        string
	query       url.Values
	header      http.Header
	body        []byte
	contentType string
	// stream and size are a body that can be sent only once.
	stream io.Reader
	size   int64
	// once says that the call must not be repeated.
	once bool
	// patience replaces that of the client.
	patience time.Duration
}

// forever is the patience of calls that are bounded by their context alone.
const forever time.Duration = math.MaxInt64

// Unreachable says that the server could not be asked.
type Unreachable struct {
	Server string
	Err    error
}

func (u *Unreachable) Error() string {
	return fmt.Sprintf("no sandlot server answers at %s: %v; start one with `sandlot up`, or name another with --server or SANDLOT_SERVER", u.Server, u.Err)
}

// Unwrap is the error of the connection.
func (u *Unreachable) Unwrap() error { return u.Err }

// call sends the request and decodes the answer into out, unless it is nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	body, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, body)
		return err
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("decode answer of %s: %w", r.path, err)
	}
	return nil
}

// open sends the request, again while that is safe and of use, and returns
// the body of an answer that is no problem.
func (c *Client) open(ctx context.Context, r request) (io.ReadCloser, error) {
	patience := c.patience
	if r.patience != 0 {
		patience = r.patience
	}
	started := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		response, err := c.send(ctx, r)
		if err == nil {
			return response.Body, nil
		}
		again, after := worthRepeating(err)
		if ctx.Err() != nil || r.once || !again || patience <= 0 || time.Since(started) > patience {
			return nil, err
		}
		if err := sleep(ctx, max(after, pause/2+rand.N(pause))); err != nil {
			return nil, err
		}
	}
}

// worthRepeating reports whether the same call may succeed later, and when.
func worthRepeating(err error) (bool, time.Duration) {
	var away *Unreachable
	if errors.As(err, &away) {
		return true, 0
	}
	var p *api.Problem
	if !errors.As(err, &p) || p.Type == api.TypeUnfit {
		return false, 0
	}
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, p.RetryAfter.Duration()
	}
	return false, 0
}

// send sends the request once and makes an error of a refusal. The caller
// closes the body when err is nil.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	response, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 400 {
		defer response.Body.Close()
		return nil, problemOf(response)
	}
	return response, nil
}

// do sends the request once.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader
	switch {
	case r.stream != nil:
		body = r.stream
	case r.body != nil:
		body = bytes.NewReader(r.body)
	}
	method := r.method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", c.base, err)
	}
	if r.stream != nil && r.size > 0 {
		req.ContentLength = r.size
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.tenant != "" {
		req.Header.Set(api.TenantHeader, c.tenant)
	}
	req.Header.Set("User-Agent", c.agent)
	response, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &Unreachable{Server: c.base, Err: err}
	}
	return response, nil
}

// problemOf reads what the server refuses; an answer of something else on the
// way, such as a proxy, becomes a problem too.
func problemOf(response *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	var p api.Problem
	if json.Unmarshal(data, &p) != nil || p.Status == 0 {
		p = *api.NewProblem(response.StatusCode, "about:blank", "%s", strings.TrimSpace(string(data[:min(len(data), 300)])))
	}
	if p.Status == http.StatusUnauthorized && p.Detail == "" {
		p.Detail = "the token is missing or wrong; give --token, SANDLOT_TOKEN or --data-dir"
	}
	return &p
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// escapePath escapes the segments of a relative path.
func escapePath(name string) string {
	segments := strings.Split(name, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}
