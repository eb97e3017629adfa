package scheduler_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// refused is an ask that must come to nothing, and what its answer names.
type refused struct {
	tenant, method, path, media, body string

	status         int
	location, says string
}

// submitted is a submit of acme with some fields.
func submitted(fields string, status int, location, says string) refused {
	return refused{"acme", "POST", "/v1/jobs", "application/json", `{"image":"python","command":["true"],` + fields + `}`, status, location, says}
}

// calling is a batch of acme with a callback.
func calling(url, says string) refused {
	return refused{"acme", "POST", "/v1/batches", "application/x-ndjson", `{"batch":{"callback":{"url":"` + url + `"}}}` + "\n" + lines(1), 422, "callback.url", says}
}

// setting is one of the operator.
func setting(path, body, location, says string) refused {
	return refused{"", "PUT", path, "application/json", body, 422, location, says}
}

func TestWrongInputIsRefusedAndDisturbsNobody(t *testing.T) {
	w := newWorld(t, func(c *scheduler.Config) { c.Callbacks.Allow = []string{"*.example.net"} })
	w.work(4, func(rec job.Record) (job.State, *job.Result) {
		if rec.Tenant != "good" {
			t.Errorf("a job of %s runs: %s", rec.Tenant, rec.ID)
		}
		return job.Succeeded, nil
	})
	acme, good := w.tenant("acme", job.Share{MaxQueued: 1, Paused: true}), w.tenant("good", job.Share{})
	_, err := acme.Submit(w.ctx, echo("fills its cap"), 0)
	must(t, err)
	count, ended := w.flow(good)
	cases := map[string]refused{
		"over the cap":           {"acme", "POST", "/v1/jobs", "application/json", `{"image":"python","command":["true"]}`, 429, "max_queued", "1 of 1"},
		"of nobody":              {"nobody", "POST", "/v1/jobs", "application/json", `{"image":"python","command":["true"]}`, 404, "", "sandlot tenants set nobody"},
		"no JSON":                {"acme", "POST", "/v1/jobs", "application/json", `{"image":`, 400, "", ""},
		"a list":                 {"acme", "POST", "/v1/jobs", "application/json", `[]`, 400, "", "send a JSON object"},
		"pool that is not there": submitted(`"pool":"nowhere"`, 422, "pool", "there are main"),
		"class of no pool":       submitted(`"class":"xxl"`, 422, "class", "it has s"),
		"priority":               submitted(`"priority":10`, 422, "priority", "0"),
		"priority as text":       submitted(`"priority":"first"`, 422, "priority", ""),
		"memory below nothing":   submitted(`"limits":{"memory":-1}`, 422, "limits.memory", ""),
		"memory without end":     submitted(`"limits":{"memory":"999999999Gi"}`, 422, "limits.memory", ""),
		"wall of a century":      submitted(`"limits":{"wall":"876000h"}`, 422, "limits.wall", ""),
		"path that leaves":       submitted(`"files":[{"path":"../../etc/passwd","content":""}]`, 422, "files[0].path", ""),
		"misspelt":               submitted(`"comand":["x"]`, 422, "comand", "command"),
		"a billion items":        {"acme", "POST", "/v1/batches", "application/x-ndjson", `{"batch":{"items":1000000000}}` + "\n", 413, "", "at most 1000000 items"},
		"metadata":               calling("https://169.254.169.254/latest/meta-data", "no public address"),
		"metadata, mapped":       calling("https://[::ffff:169.254.169.254]/", "no public address"),
		"metadata, translated":   calling("https://[64:ff9b::a9fe:a9fe]/", "no public address"),
		"metadata, IPv6":         calling("https://[fd00:ec2::254]/", "no public address"),
		"metadata by name":       calling("https://metadata.google.internal/", "allows callbacks to"),
		"unencrypted":            calling("http://hooks.example.net/", "https://"),
		"weight of none":         setting("/v1/tenants/good", `{"weight":0}`, "weight", "between 1 and 1000"),
		"weight of all":          setting("/v1/tenants/good", `{"weight":1e300}`, "weight", ""),
		"weight of a half":       setting("/v1/queues/q", `{"weight":0.5}`, "weight", ""),
		"cap below nothing":      setting("/v1/tenants/good", `{"max_running":-5}`, "max_running", "0 for no cap"),
		"rate without end":       setting("/v1/tenants/good", `{"rate":{"per_second":1e300}}`, "rate.per_second", ""),
		"name of a pool":         setting("/v1/pools/No%20Pool", `{}`, "pool", "small letters"),
	}
	var asking sync.WaitGroup
	for round := 0; round < 3 || count() < 10 && !t.Failed(); round++ {
		for name, c := range cases {
			asking.Go(func() { w.refuses(t, name, c) })
		}
		asking.Wait()
	}
	longest, n := ended()
	if n < 10 || longest > 10*time.Second {
		t.Errorf("meanwhile %d jobs of another tenant succeeded, the slowest after %s", n, longest)
	}
	if queues, err := good.Queues(w.ctx); err != nil || len(queues) > 1 {
		t.Errorf("queues of the other tenant: %+v, %v", queues, err)
	}
}

// flow has a tenant's jobs run one after the other, several at a time, until
// it is ended: count is how many have, and end tells how long the slowest took.
func (w *world) flow(c interface {
	Submit(context.Context, api.Submit, time.Duration) (api.Job, error)
}) (count func() int, end func() (longest time.Duration, n int)) {
	stop := make(chan struct{})
	var mu sync.Mutex
	var longest time.Duration
	n := 0
	var flowing sync.WaitGroup
	for range 4 {
		flowing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				done, err := c.Submit(w.ctx, echo("x"), 30*time.Second)
				if err != nil || done.State != job.Succeeded {
					w.t.Errorf("a job of another tenant: %s, %v", done.State, err)
					return
				}
				mu.Lock()
				longest, n = max(longest, time.Since(began)), n+1
				mu.Unlock()
			}
		})
	}
	count = func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
	return count, func() (time.Duration, int) {
		close(stop)
		flowing.Wait()
		return longest, n
	}
}

// refuses asks without ever ending the body, if it is a batch: what is wrong
// there must be told before all has come.
func (w *world) refuses(t *testing.T, name string, c refused) {
	body, write := io.Pipe()
	go func() {
		_, err := io.WriteString(write, c.body)
		if c.status == http.StatusRequestEntityTooLarge && err == nil {
			return // more would follow
		}
		_ = write.Close()
	}()
	defer body.Close()
	req, err := http.NewRequestWithContext(w.ctx, c.method, w.url+c.path, body)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", c.media)
	if c.tenant != "" {
		req.Header.Set("Sandlot-Tenant", c.tenant)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer response.Body.Close()
	var p api.Problem
	if err := json.NewDecoder(response.Body).Decode(&p); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	at := c.location == ""
	for _, e := range p.Errors {
		at = at || strings.HasPrefix(e.Location, c.location)
	}
	if p.Status != c.status || !at || !strings.Contains(p.Error(), c.says) || response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %d %v; want %d with %s and %q", name, p.Status, &p, c.status, c.location, c.says)
	}
	if after := response.Header.Get("Retry-After"); (c.status == http.StatusTooManyRequests) != (after != "") {
		t.Errorf("%s: Retry-After is %q", name, after)
	}
}
