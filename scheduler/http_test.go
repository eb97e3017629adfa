package scheduler_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// ask sends a request with the token and returns status and body.
func (w *world) ask(method, path, media, body string) (int, http.Header, []byte) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.ctx, method, w.url+path, strings.NewReader(body))
	must(w.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	r, err := http.DefaultClient.Do(req)
	must(w.t, err)
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	must(w.t, err)
	return r.StatusCode, r.Header, data
}

func TestBadRequestsSayWhatIsWrong(t *testing.T) {
	w := newWorld(t, nil)
	queued, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	none := uuid.NewString()
	good := `{"image":"python","command":["true"]}`
	cases := map[string]struct {
		method, path, media, body string
		status                    int
		says                      string
	}{
		"unknown field":            {"POST", "/v1/jobs", "application/json", `{"imagee":"x"}`, 422, "did you mean"},
		"broken JSON":              {"POST", "/v1/jobs", "application/json", `{`, 400, "too early"},
		"other media type":         {"POST", "/v1/jobs", "text/xml", `<a/>`, 415, "application/x-ndjson"},
		"too large":                {"POST", "/v1/jobs", "application/json", `{"stdin":"` + strings.Repeat("x", api.MaxBody) + `"}`, 413, "16Mi"},
		"image of the catalogue":   {"POST", "/v1/jobs", "application/json", `{"image":"gcc","command":["true"]}`, 422, "sandlot image build gcc"},
		"image from elsewhere":     {"POST", "/v1/jobs", "application/json", `{"image":"a/b:1","command":["true"]}`, 422, "sandlot image pull a/b:1"},
		"unknown language":         {"POST", "/v1/jobs", "application/json", `{"language":"cobol","code":"x"}`, 422, "is not known; there are"},
		"file in the way of code":  {"POST", "/v1/jobs", "application/json", `{"language":"python","code":"x","files":[{"path":"main.py"}]}`, 422, "where code goes"},
		"key of a batch":           {"POST", "/v1/jobs", "application/json", `{"key":"a","image":"python","command":["true"]}`, 422, "idempotency_key"},
		"bad wait":                 {"POST", "/v1/jobs?wait=soon", "application/json", good, 422, "10s"},
		"bad batch":                {"POST", "/v1/jobs?batch=a/b", "application/x-ndjson", good, 422, "letters"},
		"get of nothing":           {"GET", "/v1/jobs/" + none, "", "", 404, none},
		"get of no id":             {"GET", "/v1/jobs/hello", "", "", 404, "hello"},
		"cancel of nothing":        {"POST", "/v1/jobs/" + none + "/cancel", "", "", 404, none},
		"remove of nothing":        {"DELETE", "/v1/jobs/" + none, "", "", 404, none},
		"logs of nothing":          {"GET", "/v1/jobs/" + none + "/logs", "", "", 404, none},
		"trace of nothing":         {"GET", "/v1/jobs/" + none + "/trace", "", "", 404, none},
		"explain of nothing":       {"GET", "/v1/jobs/" + none + "/explain", "", "", 404, none},
		"batch of nothing":         {"GET", "/v1/batches/" + none, "", "", 404, none},
		"results of nothing":       {"GET", "/v1/batches/" + none + "/results", "", "", 404, none},
		"image of nothing":         {"DELETE", "/v1/images/none", "", "", 404, "none"},
		"remove before the end":    {"DELETE", "/v1/jobs/" + queued.ID, "", "", 409, "cancel it first"},
		"output before the end":    {"GET", "/v1/jobs/" + queued.ID + "/steps/0/stdout", "", "", 409, "not ended"},
		"artifacts before the end": {"GET", "/v1/jobs/" + queued.ID + "/artifacts", "", "", 409, "not ended"},
		"bad state":                {"GET", "/v1/jobs?state=happy", "", "", 422, "is not a state"},
		"bad limit":                {"GET", "/v1/jobs?limit=0", "", "", 422, "between"},
		"bad cursor":               {"GET", "/v1/jobs?cursor=x", "", "", 422, "next of the page"},
		"bad label":                {"GET", "/v1/jobs?label=x", "", "", 422, "name=value"},
		"bad flag":                 {"GET", "/v1/batches/x/results?follow=maybe", "", "", 422, "true or false"},
		"bad name of an image":     {"PUT", "/v1/images/A%20B", "", "", 422, "OCI reference"},
		"image that is none":       {"PUT", "/v1/images/x", "application/x-tar", "hello", 422, "not an image archive"},
		"nothing there":            {"GET", "/v2/jobs", "", "", 404, "/openapi.json"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			status, header, body := w.ask(c.method, c.path, c.media, c.body)
			var p api.Problem
			if err := json.Unmarshal(body, &p); err != nil || header.Get("Content-Type") != api.ProblemType {
				t.Fatalf("got %s %.200s: %v", header.Get("Content-Type"), body, err)
			}
			if status != c.status || p.Status != c.status || !strings.Contains(p.Error(), c.says) || p.Type == "" || p.Title == "" {
				t.Errorf("got %d %+v, want %d with %q", status, p, c.status, c.says)
			}
		})
	}
	list, err := w.client.List(w.ctx, client.ListOptions{})
	must(t, err)
	if len(list.Jobs) != 1 {
		t.Errorf("%d jobs came of it, want only the first", len(list.Jobs))
	}
}

func TestEverythingButHealthAndDescriptionAsksForTheToken(t *testing.T) {
	w := newWorld(t, nil)
	for path, want := range map[string]int{
		"/v1/jobs": 401, "/v1/workers": 401, "/v1/version": 401, "/metrics": 401, "/v1/images": 401,
		"/healthz": 200, "/openapi.json": 200, "/openapi.yaml": 200,
	} {
		for _, wrong := range []string{"", "Bearer nonsense", "Bearer " + token + "x", "Basic " + token} {
			req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, w.url+path, nil)
			must(t, err)
			if wrong != "" {
				req.Header.Set("Authorization", wrong)
			}
			r, err := http.DefaultClient.Do(req)
			must(t, err)
			r.Body.Close()
			if r.StatusCode != want {
				t.Errorf("%s with %q: %d, want %d", path, wrong, r.StatusCode, want)
			}
			if want == 401 && r.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s does not say how to identify", path)
			}
		}
	}
}

func TestListFiltersAndPages(t *testing.T) {
	w := newWorld(t, nil)
	var ids []string
	for i := range 7 {
		s := echo(fmt.Sprint(i))
		s.Queue, s.Labels = []string{"even", "odd"}[i%2], map[string]string{"n": fmt.Sprint(i % 3)}
		j, err := w.client.Submit(w.ctx, s, 0)
		must(t, err)
		ids = append([]string{j.ID}, ids...)
	}
	var got []string
	for o := (client.ListOptions{Limit: 3}); ; {
		page, err := w.client.List(w.ctx, o)
		must(t, err)
		for _, j := range page.Jobs {
			got = append(got, j.ID)
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			break
		}
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") {
		t.Errorf("pages hold %v, want %v", got, ids)
	}
	for name, c := range map[string]struct {
		o    client.ListOptions
		want int
	}{
		"queue":           {client.ListOptions{Queue: "odd"}, 3},
		"label":           {client.ListOptions{Labels: map[string]string{"n": "0"}}, 3},
		"queue and label": {client.ListOptions{Queue: "even", Labels: map[string]string{"n": "0"}}, 2},
		"state":           {client.ListOptions{State: job.Queued}, 7},
		"another state":   {client.ListOptions{State: job.Dead}, 0},
		"reason":          {client.ListOptions{Reason: job.TimedOut}, 0},
	} {
		page, err := w.client.List(w.ctx, c.o)
		must(t, err)
		if len(page.Jobs) != c.want {
			t.Errorf("%s: %d jobs, want %d", name, len(page.Jobs), c.want)
		}
	}
	queues, err := w.client.Queues(w.ctx)
	must(t, err)
	if len(queues) != 2 || queues[0].Name != "even" || queues[0].Queued != 4 || queues[1].Queued != 3 {
		t.Errorf("queues %+v", queues)
	}
}

func TestTheIndexDropsOldJobsThatHaveEndedAndSaysSo(t *testing.T) {
	w := newWorld(t, func(c *scheduler.Config) { c.Listed = 16 })
	w.work(2, succeed)
	first, err := w.client.Submit(w.ctx, echo("first"), 20*time.Second)
	must(t, err)
	for i := range 30 {
		_, err := w.client.Submit(w.ctx, echo(fmt.Sprint(i)), 20*time.Second)
		must(t, err)
	}
	list, err := w.client.List(w.ctx, client.ListOptions{Limit: 100})
	must(t, err)
	if len(list.Jobs) > 18 || list.Dropped == 0 || int(list.Dropped)+len(list.Jobs) != 31 {
		t.Errorf("%d listed, %d dropped", len(list.Jobs), list.Dropped)
	}
	if j, err := w.client.Get(w.ctx, first.ID); err != nil || j.State != job.Succeeded {
		t.Errorf("the first answers with %s, %v", j.State, err)
	}
}

func TestRemoveForgetsAJobThatHasEnded(t *testing.T) {
	w := newWorld(t, nil)
	w.work(1, succeed)
	j, err := w.client.Submit(w.ctx, echo("x"), 20*time.Second)
	must(t, err)
	must(t, w.client.Remove(w.ctx, j.ID))
	_, err = w.client.Get(w.ctx, j.ID)
	if p := problem(t, err); p.Status != http.StatusNotFound {
		t.Errorf("got %+v", p)
	}
	list, err := w.client.List(w.ctx, client.ListOptions{})
	must(t, err)
	if len(list.Jobs) != 0 {
		t.Errorf("still listed: %+v", list.Jobs)
	}
}

func TestWaitGoesOnAcrossARestartOfTheScheduler(t *testing.T) {
	w := newWorld(t, nil)
	claimed, gate := make(chan struct{}), make(chan struct{})
	w.work(1, func(job.Record) (job.State, *job.Result) {
		close(claimed)
		<-gate
		return job.Succeeded, nil
	})
	j, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	<-claimed
	done := make(chan api.Job, 1)
	go func() {
		j, err := w.client.Wait(w.ctx, j.ID)
		if err != nil {
			t.Error(err)
		}
		done <- j
	}()
	e, err := w.client.Explain(w.ctx, j.ID)
	must(t, err)
	if !strings.Contains(strings.Join(e.Sentences, " "), "Worker w1 runs attempt 1") {
		t.Errorf("explained by %q", e.Sentences)
	}
	w.restart()
	close(gate)
	if got := <-done; got.State != job.Succeeded {
		t.Errorf("state %s", got.State)
	}
}

func TestCancelOfARunningJobIsCommittedByItsWorker(t *testing.T) {
	w := newWorld(t, nil)
	claimed, gate := make(chan struct{}), make(chan struct{})
	w.work(1, func(job.Record) (job.State, *job.Result) {
		close(claimed)
		<-gate
		return job.Succeeded, nil
	})
	j, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	<-claimed
	c, err := w.client.Cancel(w.ctx, j.ID)
	must(t, err)
	if c.State != job.Canceling {
		t.Errorf("state %s after cancel", c.State)
	}
	close(gate)
	end, err := w.client.Wait(w.ctx, j.ID)
	must(t, err)
	if end.State != job.Canceled {
		t.Errorf("state %s in the end", end.State)
	}
	again, err := w.client.Cancel(w.ctx, j.ID)
	must(t, err)
	if again.State != job.Canceled {
		t.Errorf("state %s after canceling again", again.State)
	}
}

func TestASubmitWithTraceContextJoinsTheCallersTrace(t *testing.T) {
	w := newWorld(t, nil)
	w.work(1, succeed)
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, w.url+"/v1/jobs?wait=20s", strings.NewReader(`{"image":"python","command":["true"]}`))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	r, err := http.DefaultClient.Do(req)
	must(t, err)
	defer r.Body.Close()
	var j api.Job
	must(t, json.NewDecoder(r.Body).Decode(&j))
	if r.StatusCode != http.StatusOK || j.TraceID != trace || r.Header.Get("Location") != "/v1/jobs/"+j.ID {
		t.Errorf("status %d, trace %s", r.StatusCode, j.TraceID)
	}
	got, err := w.client.Trace(w.ctx, j.ID)
	must(t, err)
	names := map[string]bool{}
	for _, s := range got.Spans {
		names[s.Name] = true
		if s.End.Before(s.Start) {
			t.Errorf("%s ends before it begins", s.Name)
		}
		if s.Name == "submit" && s.Parent != "00f067aa0ba902b7" {
			t.Errorf("submit is a child of %q", s.Parent)
		}
	}
	for _, name := range []string{"submit", "accept", "release", "take", "claim", "prepare", "run", "decide", "commit", "answer"} {
		if !names[name] {
			t.Errorf("no span %s among %v", name, names)
		}
	}
}

func TestWorkersThatCannotAreToldFromThoseThatAreMissing(t *testing.T) {
	w := newWorld(t, nil)
	register := func(id string, unfit ...string) *queue.Registration {
		reg, err := w.queue.Register(w.ctx, queue.Worker{ID: id, Pool: "main", Slots: 1, CPU: 2, Memory: 1 << 30, Unfit: unfit, Started: time.Now()})
		must(t, err)
		t.Cleanup(func() { _ = reg.Close() })
		w.until("worker "+id+" is listed", func() bool {
			list, err := w.client.Workers(w.ctx)
			must(t, err)
			for _, one := range list {
				if one.ID == id {
					return true
				}
			}
			return false
		})
		return reg
	}
	big := echo("x")
	big.Limits = api.Limits{Memory: 2 * job.GiB, CPU: 3}
	_, err := w.client.Submit(w.ctx, big, 0)
	must(t, err) // nobody is there to say no

	register("lame", "limits.pids: the pids controller is missing")
	_, err = w.client.Submit(w.ctx, echo("x"), 0)
	p := problem(t, err)
	if p.Status != http.StatusServiceUnavailable || p.Detail != "no worker can enforce limits.pids" || p.Errors[0].Message != "the pids controller is missing" {
		t.Errorf("with an unfit worker: %+v", p)
	}

	register("able")
	_, err = w.client.Submit(w.ctx, big, 0)
	p = problem(t, err)
	if p.Status != http.StatusUnprocessableEntity || len(p.Errors) != 2 || !strings.Contains(p.Error(), "the largest has 2 cores") || !strings.Contains(p.Error(), "1Gi") {
		t.Errorf("too large: %+v", p)
	}
	_, err = w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
}

// until asks again until it is so.
func (w *world) until(what string, so func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("never: %s", what)
		}
	}
}

func TestHealthReadyVersionAndMetrics(t *testing.T) {
	w := newWorld(t, nil)
	w.work(1, succeed)
	_, err := w.client.Submit(w.ctx, echo("x"), 20*time.Second)
	must(t, err)
	w.until("ready", func() bool {
		h, err := w.client.Health(w.ctx)
		return err == nil && h.Status == "ok"
	})
	v, err := w.client.Version(w.ctx)
	must(t, err)
	if v.Version != "test" || v.API != "v1" {
		t.Errorf("version %+v", v)
	}
	_, _, body := w.ask("GET", "/metrics", "", "")
	for _, want := range []string{
		`sandlot_jobs_accepted_total{queue="default",tenant="default"} 1`,
		`sandlot_jobs_final_total{blame="none",reason="exited",state="succeeded"} 1`,
		`sandlot_worker_slots{pool="main",worker="w1"} 1`,
		`sandlot_http_request_seconds_count{code="200",route="/v1/jobs"} 1`,
	} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestALargeSpecIsStoredAsAnObject(t *testing.T) {
	w := newWorld(t, nil)
	var got job.Record
	w.work(1, func(r job.Record) (job.State, *job.Result) { got = r; return job.Succeeded, nil })
	s := echo("x")
	s.IdempotencyKey, s.Limits.PIDs = "large", 7
	s.Files = []job.File{{Path: "data", Content: strings.Repeat("x", 1<<20)}}
	j, err := w.client.Submit(w.ctx, s, 20*time.Second)
	must(t, err)
	if j.State != job.Succeeded || j.Limits.PIDs != 7 {
		t.Errorf("%s, limits %+v", j.State, j.Limits)
	}
	if got.Spec != nil || !strings.HasPrefix(got.SpecRef, j.ID+"/") {
		t.Errorf("record has spec %v, ref %q", got.Spec != nil, got.SpecRef)
	}
	again, err := w.client.Submit(w.ctx, s, 0)
	must(t, err)
	if again.ID != j.ID {
		t.Errorf("another job: %s", again.ID)
	}
	w.restart()
	must(t, w.queue.Delete(w.ctx, queue.Inputs, got.SpecRef)) // as the reconcile pass does once it has ended
	if j, err = w.client.Get(w.ctx, j.ID); err != nil || j.Limits.PIDs != 7 {
		t.Errorf("after a restart and without the object: limits %+v, %v", j.Limits, err)
	}
}

func TestAKnownAddressNamesItsMethods(t *testing.T) {
	w := newWorld(t, nil)
	for request, want := range map[string]struct {
		status int
		allow  string
	}{
		"PUT /v1/jobs":          {405, "GET, HEAD, POST"},
		"PATCH /v1/jobs/x":      {405, "GET, HEAD, DELETE"},
		"GET /v1/jobs/x/cancel": {405, "POST"},
		"POST /healthz":         {405, "GET, HEAD"},
		"POST /v2/jobs":         {404, ""},
		"DELETE /":              {404, ""},
	} {
		method, path, _ := strings.Cut(request, " ")
		req, err := http.NewRequestWithContext(w.ctx, method, w.url+path, nil)
		must(t, err)
		r, err := http.DefaultClient.Do(req)
		must(t, err)
		r.Body.Close()
		if r.StatusCode != want.status || r.Header.Get("Allow") != want.allow {
			t.Errorf("%s: %d, Allow %q; want %d, %q", request, r.StatusCode, r.Header.Get("Allow"), want.status, want.allow)
		}
	}
}

// TestAnAnswerThatCannotBeWrittenIsAnErrorOnlyIfItIsOurs: a client that left
// and a stop are not worth an operator's look.
func TestAnAnswerThatCannotBeWrittenIsAnErrorOnlyIfItIsOurs(t *testing.T) {
	gone := &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	for name, c := range map[string]struct {
		err     error
		stopped bool
		level   string
	}{
		"the client left":          {err: gone, level: ""},
		"the scheduler is stopped": {err: errors.New("cut"), stopped: true, level: ""},
		"anything else":            {err: errors.New("cut"), level: "level=ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			var said bytes.Buffer
			s, err := scheduler.New(scheduler.Config{
				Queue: w.queue, Token: token, Listen: "127.0.0.1:0",
				Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn})),
			})
			must(t, err)
			if c.stopped {
				ctx, cancel := context.WithCancel(w.ctx)
				cancel()
				must(t, s.Run(ctx))
			}
			r := httptest.NewRequest(http.MethodGet, "/v1/version", nil)
			r.Header.Set("Authorization", "Bearer "+token)
			func() {
				defer func() {
					if cut := recover(); cut != http.ErrAbortHandler {
						t.Errorf("the answer is not cut off: %v", cut)
					}
				}()
				s.Handler().ServeHTTP(deafWriter{httptest.NewRecorder(), c.err}, r)
			}()
			if text := said.String(); !strings.Contains(text, c.level) || c.level == "" && text != "" {
				t.Errorf("the log has %q, want %q", text, c.level)
			}
		})
	}
}

// deafWriter is a connection that fails in the answer's body.
type deafWriter struct {
	http.ResponseWriter
	err error
}

func (w deafWriter) Write([]byte) (int, error) { return 0, w.err }
