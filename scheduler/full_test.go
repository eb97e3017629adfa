package scheduler_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// TestAFullStoreIsSaidAndLosesNothing fills the records: new jobs are refused
// as ours to mend, all that were accepted end, and with room all goes on.
func TestAFullStoreIsSaidAndLosesNothing(t *testing.T) {
	w := newWorld(t, nil)
	resize := func(records int64) {
		q, err := queue.Open(w.ctx, queue.Config{Server: w.server, Name: "sizes", Logger: w.log, Sizes: &queue.Sizes{Records: records}})
		must(t, err)
		q.Close()
	}
	resize(1 << 20)
	body, err := json.Marshal(map[string]any{"image": "python", "command": []string{"true"}, "stdin": strings.Repeat("x", 12<<10)})
	must(t, err)
	var accepted []string
	for refused := false; !refused; {
		status, header, data := w.ask(http.MethodPost, "/v1/jobs", "", string(body))
		switch status {
		case http.StatusAccepted:
			var j api.Job
			must(t, json.Unmarshal(data, &j))
			accepted = append(accepted, j.ID)
		case http.StatusServiceUnavailable:
			refused = true
			if header.Get("Retry-After") == "" || !strings.Contains(string(data), "records are at 80 %") {
				t.Errorf("refused with %v, %s", header, data)
			}
		default:
			t.Fatalf("%d: %s", status, data)
		}
		if len(accepted) > 200 {
			t.Fatal("a MiB takes more than 200 of them")
		}
	}
	if len(accepted) < 5 {
		t.Errorf("only %d were accepted", len(accepted))
	}
	w.work(2, func(job.Record) (job.State, *job.Result) { return job.Succeeded, nil })
	for _, id := range accepted {
		if j, err := w.client.Wait(w.ctx, id); err != nil || j.State != job.Succeeded {
			t.Errorf("job %s: %s, %v", id, j.State, err)
		}
	}
	resize(64 << 20)
	w.until("jobs are accepted again", func() bool {
		status, _, _ := w.ask(http.MethodPost, "/v1/jobs", "", string(body))
		return status == http.StatusAccepted
	})
}
