package scheduler_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// upload sends a batch.
func (w *world) upload(media, body string) (api.Batch, error) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, w.url+"/v1/batches", strings.NewReader(body))
	must(w.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", media)
	r, err := http.DefaultClient.Do(req)
	must(w.t, err)
	defer r.Body.Close()
	if r.StatusCode >= 300 {
		var p api.Problem
		must(w.t, json.NewDecoder(r.Body).Decode(&p))
		return api.Batch{}, &p
	}
	var b api.Batch
	must(w.t, json.NewDecoder(r.Body).Decode(&b))
	return b, nil
}

// uploaded sends a batch that is taken.
func (w *world) uploaded(body string) api.Batch {
	w.t.Helper()
	b, err := w.upload("application/x-ndjson", body)
	must(w.t, err)
	return b
}

// results reads all results of a batch to its end.
func (w *world) results(id string) map[string]api.BatchResult {
	w.t.Helper()
	found := map[string]api.BatchResult{}
	must(w.t, w.client.BatchResults(w.ctx, id, client.ResultOptions{Follow: true}, func(r api.BatchResult) error {
		name := r.Key
		if r.State == api.Rejected {
			name = fmt.Sprintf("line %d", r.Line)
		}
		if _, twice := found[name]; twice {
			w.t.Errorf("%s came twice", name)
		}
		found[name] = r
		return nil
	}))
	return found
}

// finished waits for the end of a batch by its events, and checks that its
// counts agree with each other.
func (w *world) finished(id string) api.Batch {
	w.t.Helper()
	b, err := w.client.WatchBatch(w.ctx, id, func(b api.Batch) error {
		sum := 0
		for _, n := range b.States {
			sum += n
		}
		if b.State != job.BatchUploading && sum != b.Jobs || b.Final > b.Jobs {
			w.t.Errorf("counts of %d jobs add up to %d, %d final: %v", b.Jobs, sum, b.Final, b.States)
		}
		return nil
	})
	must(w.t, err)
	if b.Final != b.Jobs {
		w.t.Errorf("it ended with %d of %d jobs final", b.Final, b.Jobs)
	}
	return b
}

// small makes segments and windows small.
func small(n int) func(*scheduler.Config) {
	return func(c *scheduler.Config) { c.BatchSegment = n }
}

func TestABatchEndsWithOneResultPerLine(t *testing.T) {
	w := newWorld(t, small(100))
	w.work(4, func(r job.Record) (job.State, *job.Result) {
		if strings.HasSuffix(r.Key, "7") {
			return job.Failed, &job.Result{Verdict: job.Verdict{Blame: job.BlameProgram, Reason: job.Exited}}
		}
		return job.Succeeded, succeeded(r.Key)
	})
	const n = 730
	b := w.uploaded("{\"batch\":{\"name\":\"mine\"}}\n" + lines(n) + "{\"key\":\"k/3\",\"image\":\"python\",\"command\":[\"true\"]}\nnonsense\n")
	if b.Jobs != n || b.Rejected != 2 || b.Lines != n+2 || b.State != job.BatchRunning || b.Name != "mine" {
		t.Fatalf("uploaded %+v %+v", b, b.BatchProgress)
	}
	got := w.results(b.ID)
	if len(got) != n+2 {
		t.Errorf("%d results of %d lines", len(got), n+2)
	}
	for i := range n {
		key := fmt.Sprintf("k/%d", i)
		r := got[key]
		want := job.Succeeded
		if i%10 == 7 {
			want = job.Failed
		}
		if r.State != want || r.ID != job.ItemID(b.ID, i) || r.Batch != b.ID || want == job.Succeeded && r.Steps[0].Stdout.Text != key {
			t.Fatalf("result of %s is %+v", key, r)
		}
	}
	if r := got[fmt.Sprintf("line %d", n+1)]; r.Error == nil || !strings.Contains(r.Error.Error(), "line 4") || r.Key != "k/3" {
		t.Errorf("the duplicate is %+v", r)
	}
	if r := got[fmt.Sprintf("line %d", n+2)]; r.Error == nil || r.Error.Status != 400 {
		t.Errorf("the nonsense is %+v", r)
	}
	end := w.finished(b.ID)
	if end.State != job.BatchFinished || end.States[job.Failed] != 73 || end.States[job.Succeeded] != n-73 || len(end.Failures) != 10 || len(end.Verdicts) != 2 {
		t.Errorf("it ended as %+v %+v", end, end.BatchProgress)
	}
	// An item answers by its id as any job does, although its record is gone.
	item, err := w.client.Get(w.ctx, job.ItemID(b.ID, 17))
	must(t, err)
	if item.State != job.Failed || item.Key != "k/17" || !item.ExpiresAt.Equal(end.ExpiresAt) {
		t.Errorf("item 17 is %+v", item)
	}
	if _, err := w.client.Get(w.ctx, job.ItemID(b.ID, n)); problem(t, err).Status != 404 {
		t.Errorf("an item after the last: %v", err)
	}
}

func TestItemsAnswerBeforeTheirTurn(t *testing.T) {
	w := newWorld(t, nil)
	b := w.uploaded(lines(1000)) // nobody works
	for _, i := range []int{0, 500, 999} {
		j, err := w.client.Get(w.ctx, job.ItemID(b.ID, i))
		must(t, err)
		if j.State != job.Queued || j.Key != fmt.Sprintf("k/%d", i) || j.Image.Digest != digest {
			t.Errorf("item %d is %+v", i, j)
		}
	}
	now, err := w.client.Batch(w.ctx, b.ID)
	must(t, err)
	if now.States[job.Queued] != 1000 || now.Expanded > 600 {
		t.Errorf("%d items have records, counts are %v; want few, and 1000 queued", now.Expanded, now.States)
	}
	j, err := w.client.Cancel(w.ctx, job.ItemID(b.ID, 998))
	must(t, err)
	if j.State != job.Canceled {
		t.Errorf("a canceled item that had no turn is %s", j.State)
	}
	w.work(4, succeed)
	end := w.finished(b.ID)
	if end.States[job.Canceled] != 1 || end.States[job.Succeeded] != 999 {
		t.Errorf("it ended as %v", end.States)
	}
}

func TestABatchSurvivesRestartsOfTheScheduler(t *testing.T) {
	w := newWorld(t, small(64))
	var ran atomic.Int64
	gate := make(chan struct{}, 1)
	w.work(4, func(r job.Record) (job.State, *job.Result) {
		if n := ran.Add(1); n%150 == 0 {
			select {
			case gate <- struct{}{}:
			default:
			}
		}
		return job.Succeeded, succeeded(r.Key)
	})
	const n = 1200
	b := w.uploaded(lines(n))
	seen := make(chan map[string]api.BatchResult, 1)
	go func() { seen <- w.results(b.ID) }()
	for range 4 {
		<-gate
		w.restart()
	}
	if got := <-seen; len(got) != n {
		t.Errorf("%d results of %d", len(got), n)
	}
	if end := w.finished(b.ID); end.States[job.Succeeded] != n {
		t.Errorf("it ended as %v", end.States)
	}
	if extra := ran.Load() - n; extra > 8 {
		t.Errorf("%d jobs ran twice", extra)
	}
}

func TestATemplateIsFilledInForEachItem(t *testing.T) {
	w := newWorld(t, nil)
	w.work(2, func(r job.Record) (job.State, *job.Result) {
		return job.Succeeded, succeeded(strings.Join(r.Spec.Steps[0].Command, " ") + "|" + r.Spec.Steps[0].Stdin)
	})
	b, err := w.upload("application/json", `{
		"template": {"image": "python", "command": ["echo", "{{word}}", "{{other}}"], "stdin": "in"},
		"items": [
			{"key": "a", "vars": {"word": "one"}},
			{"key": "b", "vars": {"word": "two"}, "stdin": "mine {{word}}"},
			{"key": "c", "command": ["own"]},
			{"key": "d", "vars": {"wrod": "x"}},
			{"key": "e", "limits": {"memory": 0}}
		]}`)
	must(t, err)
	got := w.results(b.ID)
	for key, want := range map[string]string{"a": "echo one {{other}}|in", "b": "echo two {{other}}|mine {{word}}", "c": "own|in"} {
		if r := got[key]; r.State != job.Succeeded || r.Steps[0].Stdout.Text != want {
			t.Errorf("%s ran %+v, want %q", key, r.Steps, want)
		}
	}
	if r := got["line 4"]; r.Error == nil || !strings.Contains(r.Error.Error(), "vars.wrod") || !strings.Contains(r.Error.Error(), "word") {
		t.Errorf("a misspelt variable: %+v", r)
	}
	if r := got["line 5"]; r.Error == nil || !strings.Contains(r.Error.Error(), "limits.memory") {
		t.Errorf("a wrong limit: %+v", r)
	}
}

func TestBadBatchesAreRefusedClearly(t *testing.T) {
	w := newWorld(t, func(c *scheduler.Config) { c.BatchItems = 10 })
	one := `{"key":"a","image":"python","command":["true"]}`
	for name, c := range map[string]struct {
		media, body string
		status      int
		says        string
	}{
		"no items":              {"application/x-ndjson", "\n\n", 422, "at least one"},
		"a billion items":       {"application/x-ndjson", `{"batch":{"items":1000000000}}` + "\n" + one, 413, "at most 10 items"},
		"one too many":          {"application/x-ndjson", lines(11), 413, "at most 10 items"},
		"fewer than announced":  {"application/x-ndjson", `{"batch":{"items":3}}` + "\n" + one, 422, "came as 1 lines"},
		"an unknown setting":    {"application/x-ndjson", `{"batch":{"stop_afer":{"passed":1}}}` + "\n" + one, 422, "did you mean \"stop_after\""},
		"a bad id":              {"application/x-ndjson", `{"batch":{"id":"mine"}}` + "\n" + one, 422, "UUID"},
		"no list":               {"application/json", `{"name":"x"}`, 422, "items: is missing"},
		"settings after items":  {"application/json", `{"items":[` + one + `],"name":"x"}`, 400, "items must be the last field"},
		"cut short":             {"application/json", `{"items":[` + one, 400, "cut short"},
		"a bad template":        {"application/json", `{"template":{"comand":["x"]},"items":[{"key":"a"}]}`, 422, "template.comand"},
		"a key in the template": {"application/json", `{"template":{"key":"x"},"items":[{"key":"a"}]}`, 422, "template.key"},
		"groups without a rule": {"application/json", `{"success":{"min_groups":1},"items":[]}`, 422, "stop_after"},
		"nothing for success":   {"application/json", `{"success":{},"items":[]}`, 422, "says nothing"},
		"another type":          {"text/plain", one, 415, "application/x-ndjson"},
		"a metadata address":    {"application/x-ndjson", `{"batch":{"callback":{"url":"https://169.254.169.254/latest"}}}` + "\n" + one, 422, "no public address"},
		"a callback":            {"application/x-ndjson", `{"batch":{"callback":{"url":"https://example.org/"}}}` + "\n" + one, 422, "--callback-allow"},
	} {
		_, err := w.upload(c.media, c.body)
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		if p := problem(t, err); p.Status != c.status || !strings.Contains(p.Error(), c.says) {
			t.Errorf("%s: %d %v; want %d with %q", name, p.Status, p, c.status, c.says)
		}
	}
	list, err := w.client.Batches(w.ctx)
	must(t, err)
	for _, b := range list.Batches {
		if b.State != job.BatchUploading {
			t.Errorf("left behind: %+v", b.BatchProgress)
		}
	}
	if b := w.uploaded(lines(10)); b.Jobs != 10 {
		t.Errorf("a batch of the largest size has %d jobs", b.Jobs)
	}
}

func TestAnUploadThatWasCutOffGoesOn(t *testing.T) {
	w := newWorld(t, nil)
	w.work(2, succeed)
	id := uuid.NewString()
	head := `{"batch":{"id":"` + id + `"}}` + "\n"
	all := lines(40)
	// The connection breaks after some lines.
	r, in := io.Pipe()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, w.url+"/v1/batches", r)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-ndjson")
	go func() {
		_, _ = io.WriteString(in, head+lines(17)+`{"key":"cut`)
		_ = in.CloseWithError(errors.New("gone"))
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
	}
	kept := 0
	w.eventually("what arrived is kept", func() bool {
		b, err := w.client.Batch(w.ctx, id)
		if err == nil && b.BatchProgress != nil {
			kept = b.Lines
		}
		return kept == 17
	})
	if _, err := w.client.Get(w.ctx, job.ItemID(id, 0)); problem(t, err).Status != 404 {
		t.Errorf("an item of an upload: %v", err)
	}
	// Other lines under the same id are another batch.
	_, err = w.upload("application/x-ndjson", head+strings.ReplaceAll(all, "echo", "other"))
	if p := problem(t, err); p.Status != 409 {
		t.Errorf("other lines: %v", err)
	}
	// One that is cut off before any line is there takes nothing away.
	_, err = w.upload("application/json", `{"id":"`+id+`","items":[`)
	if p := problem(t, err); p.Status != 400 {
		t.Errorf("an upload without a line: %v", err)
	}
	if b, err := w.client.Batch(w.ctx, id); err != nil || b.Lines != kept {
		t.Fatalf("after it %+v is left of %d lines: %v", b.BatchProgress, kept, err)
	}
	b := w.uploaded(head + all)
	if b.Jobs != 40 || b.Lines != 40 {
		t.Errorf("after all was sent again it has %d jobs of %d lines", b.Jobs, b.Lines)
	}
	if again := w.uploaded(head + all); again.Jobs != 40 || again.ID != id {
		t.Errorf("sent a third time: %+v", again)
	}
	_, err = w.upload("application/x-ndjson", head+lines(41))
	if p := problem(t, err); p.Status != 409 {
		t.Errorf("more lines than the batch has: %v", err)
	}
	if end := w.finished(id); end.States[job.Succeeded] != 40 {
		t.Errorf("it ended as %v", end.States)
	}
}

func TestACanceledBatchEndsAllOfIt(t *testing.T) {
	w := newWorld(t, small(200))
	running := make(chan string, 8)
	gate := make(chan struct{})
	w.work(2, func(r job.Record) (job.State, *job.Result) {
		running <- r.ID
		<-gate
		return job.Succeeded, nil
	})
	b := w.uploaded(lines(900))
	<-running
	<-running
	if err := w.client.RemoveBatch(w.ctx, b.ID); problem(t, err).Status != 409 {
		t.Errorf("removed while it runs: %v", err)
	}
	now, err := w.client.CancelBatch(w.ctx, b.ID)
	must(t, err)
	if now.State != job.BatchCanceling {
		t.Errorf("it is %s", now.State)
	}
	w.eventually("what waits is canceled, what runs is asked to end", func() bool {
		now, err := w.client.Batch(w.ctx, b.ID)
		return err == nil && now.States[job.Canceling] == 2 && now.States[job.Canceled] == 898
	})
	close(gate)
	end := w.finished(b.ID)
	if end.State != job.BatchCanceled || end.States[job.Canceled] != 900 {
		t.Errorf("it ended as %s %v", end.State, end.States)
	}
	for _, i := range []int{0, 5, 899} {
		j, err := w.client.Get(w.ctx, job.ItemID(b.ID, i))
		must(t, err)
		if j.State != job.Canceled || !strings.Contains(j.Verdict.Evidence.Detail, "batch was canceled") {
			t.Errorf("item %d: %s %+v", i, j.State, j.Verdict)
		}
	}
	must(t, w.client.RemoveBatch(w.ctx, b.ID))
	if _, err := w.client.Batch(w.ctx, b.ID); problem(t, err).Status != 404 {
		t.Errorf("removed: %v", err)
	}
	if _, err := w.client.Get(w.ctx, job.ItemID(b.ID, 5)); problem(t, err).Status != 404 {
		t.Errorf("an item of a removed batch: %v", err)
	}
}

func TestAGroupStopsWhenEnoughOfItHasPassed(t *testing.T) {
	w := newWorld(t, small(50))
	var ran atomic.Int64
	w.work(1, func(r job.Record) (job.State, *job.Result) {
		ran.Add(1)
		if r.Group == "never" {
			return job.Failed, &job.Result{Verdict: job.Verdict{Blame: job.BlameProgram, Reason: job.Exited}}
		}
		return job.Succeeded, nil
	})
	var body strings.Builder
	body.WriteString(`{"batch":{"stop_after":{"passed":3},"success":{"min_groups":2}}}` + "\n")
	for i := range 600 {
		group := []string{"one", "two", "never"}[i%3]
		fmt.Fprintf(&body, `{"key":"%d","group":"%s","image":"python","command":["true"]}`+"\n", i, group)
	}
	b := w.uploaded(body.String())
	end := w.finished(b.ID)
	if end.GroupsPassed != 2 || end.Outcome != job.OutcomePassed || end.States[job.Failed] != 200 {
		t.Errorf("it ended as %v, %d groups passed, outcome %q (%s)", end.States, end.GroupsPassed, end.Outcome, end.OutcomeReason)
	}
	// What was under way when a group had enough may have passed as well.
	if passed := end.States[job.Succeeded]; passed < 6 || passed > 200 || end.States[job.Canceled] != 400-passed {
		t.Errorf("it ended as %v", end.States)
	}
	said := 0
	for _, r := range w.results(b.ID) {
		if r.State == job.Canceled {
			if !strings.Contains(r.Verdict.Evidence.Detail, "stop_after") {
				t.Errorf("%s was canceled because %q", r.Key, r.Verdict.Evidence.Detail)
			}
			said++
		}
	}
	if said != end.States[job.Canceled] {
		t.Errorf("%d say why, of %d", said, end.States[job.Canceled])
	}
}

func TestResultsOfABatchGoOnAfterACursor(t *testing.T) {
	w := newWorld(t, small(30))
	w.work(4, succeed)
	b := w.uploaded("bad\n" + lines(100) + "bad too\n")
	w.finished(b.ID)
	var cursors, keys []string
	note := func(r api.BatchResult) error {
		cursors, keys = append(cursors, r.Cursor), append(keys, fmt.Sprint(r.Line, r.Key))
		return nil
	}
	must(t, w.client.BatchResults(w.ctx, b.ID, client.ResultOptions{}, note))
	all := strings.Join(keys, " ")
	if len(keys) != 102 {
		t.Fatalf("%d lines", len(keys))
	}
	for _, at := range []int{0, 1, 2, 31, 60, 101} {
		first := strings.Join(keys[:at+1], " ")
		after := cursors[at]
		cursors, keys = nil, nil
		must(t, w.client.BatchResults(w.ctx, b.ID, client.ResultOptions{After: after}, note))
		if got := strings.TrimSpace(first + " " + strings.Join(keys, " ")); got != all {
			t.Errorf("after line %d %d lines came", at, len(keys))
		}
		cursors, keys = nil, nil
		must(t, w.client.BatchResults(w.ctx, b.ID, client.ResultOptions{}, note))
	}
}

// TestACancelBeforeItsTurnHolds cancels items that are just about to become
// jobs: whoever was told that it is canceled, none of them runs.
func TestACancelBeforeItsTurnHolds(t *testing.T) {
	w := newWorld(t, small(50))
	w.work(4, succeed)
	const n = 1500
	b := w.uploaded(lines(n))
	canceled := map[string]bool{}
	for {
		now, err := w.client.Batch(w.ctx, b.ID)
		must(t, err)
		if now.Expanded >= n {
			break
		}
		for i := now.Expanded; i < min(now.Expanded+4, n); i++ {
			j, err := w.client.Cancel(w.ctx, job.ItemID(b.ID, i))
			must(t, err)
			if j.State == job.Canceled {
				canceled[j.Key] = true
			}
		}
	}
	if len(canceled) == 0 {
		t.Fatal("no item was canceled before it ran")
	}
	end := w.finished(b.ID)
	got := w.results(b.ID)
	for key := range canceled {
		if got[key].State != job.Canceled {
			t.Errorf("%s was told to be canceled and is %s", key, got[key].State)
		}
	}
	if len(got) != n || end.States[job.Canceled]+end.States[job.Succeeded] != n {
		t.Errorf("%d results of %d items: %v", len(got), n, end.States)
	}
}

// TestNoFollowerMissesAResult has many read while results move from records
// to segments.
func TestNoFollowerMissesAResult(t *testing.T) {
	w := newWorld(t, small(7))
	w.work(4, succeed)
	const n, readers = 600, 12
	b := w.uploaded(lines(n))
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			if got := w.results(b.ID); len(got) != n {
				t.Errorf("a follower was told %d results of %d", len(got), n)
			}
		})
	}
	all.Wait()
}

// TestASchedulerThatLagsTellsWhatWasForgotten asks a scheduler for results that
// has not seen the end of the first items, since they were stored and forgotten
// before it looked, nor that they were stored.
func TestASchedulerThatLagsTellsWhatWasForgotten(t *testing.T) {
	w := newWorld(t, small(7))
	var mu sync.Mutex
	var opened []queue.BatchChange
	ends := map[string]queue.Change{}
	go func() {
		_ = w.queue.FollowBatches(w.ctx, func(c queue.BatchChange) {
			mu.Lock()
			defer mu.Unlock()
			if c.Batch.State == job.BatchRunning && slices.Equal(c.Batch.Folded, c.Batch.Since) {
				opened = []queue.BatchChange{c}
			}
		}, func() {})
	}()
	const n, first, all = 40, 7, 10
	go func() {
		_ = w.queue.Follow(w.ctx, func(c queue.Change) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case c.Removed:
				delete(ends, c.ID)
			case c.State.Final():
				ends[c.ID] = c
			}
		}, func() {})
	}()
	var begun atomic.Int32
	rest := make(chan struct{})
	defer close(rest)
	w.work(1, func(job.Record) (job.State, *job.Result) {
		if begun.Add(1) > all {
			<-rest
		}
		return job.Succeeded, nil
	})
	b := w.uploaded(lines(n))
	w.eventually("the first items are forgotten", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return begun.Load() > all && len(ends) == all-first
	})

	late, err := scheduler.New(scheduler.Config{Queue: w.queue, Telemetry: w.tel, Logger: w.log, Listen: "127.0.0.1:0", Token: token, Version: "test", TempDir: t.TempDir()})
	must(t, err)
	mu.Lock()
	late.Hear(opened, slices.SortedFunc(maps.Values(ends), func(a, b queue.Change) int { return cmp.Compare(a.Seq, b.Seq) }))
	mu.Unlock()
	served := httptest.NewServer(late.Handler())
	defer served.Close()
	told := map[string]int{}
	must(t, client.New(client.Config{Server: served.URL, Token: token}).BatchResults(w.ctx, b.ID, client.ResultOptions{}, func(r api.BatchResult) error {
		told[r.Key]++
		return nil
	}))
	for key, times := range told {
		if times != 1 {
			t.Errorf("%s was told %d times", key, times)
		}
	}
	if len(told) != all {
		t.Errorf("%d results were told, %d items have ended", len(told), all)
	}
}

// eventually asks until ok says yes.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			w.t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}
