package scheduler_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"key":"k/%d","image":"python","command":["echo","%d"]}`+"\n", i, i)
	}
	return b.String()
}

func (w *world) submitMany(batch, body string) []api.LineAnswer {
	w.t.Helper()
	var answers []api.LineAnswer
	must(w.t, w.client.SubmitMany(w.ctx, batch, strings.NewReader(body), func(a api.LineAnswer) error {
		answers = append(answers, a)
		return nil
	}))
	return answers
}

func TestBatchAnswersEveryLineInOrder(t *testing.T) {
	w := newWorld(t, nil)
	body := `{"key":"a","language":"python","code":"print(1)"}
{"key":"b","image":"python","command":["true"],"limits":{"memory":0}}

{"key":"c","image":"nothing/here","command":["true"]}
{"key":"d", broken
{"image":"python","command":["true"]}
{"key":"e","image":"python","command":["true"],"idempotency_key":"x"}
{"key":"a","image":"python","command":["another"]}
{"key":"f","image":"python","command":["true"]}`
	got := w.submitMany(client.NewBatch(), body)
	want := []struct {
		line    int
		key     string
		refused int
		says    string
	}{
		{1, "a", 0, ""}, {2, "b", 422, "limits.memory"}, {4, "c", 422, "sandlot image pull nothing/here"}, {5, "d", 400, "invalid character"},
		{6, "", 422, "key: is missing"}, {7, "e", 422, "idempotency_key"}, {8, "a", 409, "another body"}, {9, "f", 0, ""},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d answers, want %d: %+v", len(got), len(want), got)
	}
	for i, a := range got {
		if a.Line != want[i].line || a.Key != want[i].key {
			t.Errorf("answer %d is to line %d, key %q; want %d, %q", i, a.Line, a.Key, want[i].line, want[i].key)
		}
		if want[i].refused == 0 {
			if a.State != job.Queued || a.ID == "" || a.Error != nil {
				t.Errorf("line %d: %+v %v", a.Line, a, a.Error)
			}
			continue
		}
		if a.State != api.Rejected || a.Error == nil || a.Error.Status != want[i].refused || !strings.Contains(a.Error.Error(), want[i].says) {
			t.Errorf("line %d: %s %v; want %d with %q", a.Line, a.State, a.Error, want[i].refused, want[i].says)
		}
	}
}

func TestBatchSentAgainIsTheSameBatch(t *testing.T) {
	w := newWorld(t, nil)
	batch := client.NewBatch()
	first := w.submitMany(batch, lines(600))
	again := w.submitMany(batch, lines(700))
	for i, a := range first {
		if a.ID == "" || a.ID != again[i].ID || again[i].Line != i+1 {
			t.Fatalf("line %d: %+v, then %+v", i+1, a, again[i])
		}
	}
	counts, err := w.client.Batch(w.ctx, batch)
	must(t, err)
	if counts.Jobs != 700 || counts.States[job.Queued] != 700 {
		t.Errorf("counted %+v", counts)
	}
}

func TestResultsComeOnceEachAcrossRestartsOfTheScheduler(t *testing.T) {
	w := newWorld(t, nil)
	var run atomic.Int64
	gate := make(chan struct{})
	w.work(4, func(r job.Record) (job.State, *job.Result) {
		if run.Add(1) > 100 {
			<-gate
		}
		return job.Succeeded, succeeded(r.Key)
	})
	batch := client.NewBatch()
	const n = 300
	w.submitMany(batch, lines(n))
	seen := map[string]int{}
	must(t, w.client.BatchResults(w.ctx, batch, client.ResultOptions{Follow: true}, func(r api.BatchResult) error {
		seen[r.Key]++
		if r.State != job.Succeeded || r.Steps[0].Stdout.Text != r.Key {
			t.Errorf("%s: %s", r.Key, r.State)
		}
		switch len(seen) {
		case 50:
			w.restart()
		case 90:
			close(gate)
		}
		return nil
	}))
	if len(seen) != n {
		t.Errorf("%d results of %d", len(seen), n)
	}
	for key, times := range seen {
		if times != 1 {
			t.Errorf("%s came %d times", key, times)
		}
	}
	counts, err := w.client.Batch(w.ctx, batch)
	must(t, err)
	if counts.Final != n || len(counts.Verdicts) != 1 || counts.Verdicts[0] != (api.VerdictCount{Blame: job.BlameNone, Reason: job.Exited, Count: n}) {
		t.Errorf("counted %+v", counts)
	}
}

func TestResultsAfterACursorGoOnThere(t *testing.T) {
	w := newWorld(t, nil)
	w.work(2, succeed)
	batch := client.NewBatch()
	w.submitMany(batch, lines(10))
	var cursors, keys []string
	must(t, w.client.BatchResults(w.ctx, batch, client.ResultOptions{Follow: true}, func(r api.BatchResult) error {
		cursors, keys = append(cursors, r.Cursor), append(keys, r.Key)
		return nil
	}))
	var rest []string
	must(t, w.client.BatchResults(w.ctx, batch, client.ResultOptions{After: cursors[6]}, func(r api.BatchResult) error {
		rest = append(rest, r.Key)
		return nil
	}))
	if strings.Join(rest, " ") != strings.Join(keys[7:], " ") {
		t.Errorf("got %v after %v", rest, keys[6])
	}
}

func TestResultsWaitForLinesStillToCome(t *testing.T) {
	w := newWorld(t, nil)
	w.work(2, succeed)
	batch := client.NewBatch()
	var submitting atomic.Bool
	submitting.Store(true)
	firstResult, done := make(chan struct{}), make(chan error, 1)
	count := 0
	go func() {
		done <- w.client.BatchResults(w.ctx, batch, client.ResultOptions{Follow: true, More: submitting.Load}, func(api.BatchResult) error {
			if count++; count == 1 {
				close(firstResult)
			}
			return nil
		})
	}()
	w.submitMany(batch, lines(1))
	<-firstResult
	w.submitMany(batch, lines(20))
	submitting.Store(false)
	must(t, <-done)
	if count != 20 {
		t.Errorf("%d results of 20", count)
	}
}

// TestBatchIsAnsweredWhileItIsSent shows that a client may wait for an answer
// before it sends the next line.
func TestBatchIsAnsweredWhileItIsSent(t *testing.T) {
	w := newWorld(t, nil)
	out, in := io.Pipe()
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/v1/jobs", out)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-ndjson")
	go func() { _, _ = io.WriteString(in, lines(1)) }()
	r, err := http.DefaultClient.Do(req)
	must(t, err)
	defer r.Body.Close()
	if r.Header.Get("Sandlot-Batch") == "" {
		t.Error("no id of the batch was made up")
	}
	answers := json.NewDecoder(r.Body)
	for i := range 3 {
		var a api.LineAnswer
		must(t, answers.Decode(&a))
		if a.Line != i+1 || a.ID == "" {
			t.Fatalf("got %+v", a)
		}
		if i < 2 {
			_, err = fmt.Fprintf(in, `{"key":"n%d","image":"python","command":["true"]}`+"\n", i)
			must(t, err)
		}
	}
	must(t, in.Close())
	if rest, _ := io.ReadAll(r.Body); len(bytes.TrimSpace(rest)) > 0 {
		t.Errorf("then came %s", rest)
	}
}

func TestALineThatIsTooLargeIsRefusedAlone(t *testing.T) {
	w := newWorld(t, nil)
	body := `{"key":"big","image":"python","command":["true"],"stdin":"` + strings.Repeat("x", api.MaxBody) + "\"}\n" + lines(1)
	got := w.submitMany(client.NewBatch(), body)
	if len(got) != 2 || got[0].Error == nil || got[0].Error.Status != 413 || got[0].Key != "big" || got[1].ID == "" {
		t.Errorf("got %+v", got)
	}
}
