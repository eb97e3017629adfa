package scheduler_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// log stores a chunk of a job's standard output.
func (w *world) log1(r job.Record, offset int64, data string) {
	if !w.queue.Log(queue.LogChunk{Job: r.ID, Attempt: r.Attempt, Step: "run", Stream: "stdout", Offset: offset, Data: []byte(data), At: time.Now()}) {
		w.t.Errorf("chunk at %d was dropped", offset)
	}
}

func TestLogsFollowAJobWhileItRuns(t *testing.T) {
	w := newWorld(t, nil)
	first, gate := make(chan struct{}), make(chan struct{})
	w.work(1, func(r job.Record) (job.State, *job.Result) {
		w.log1(r, 0, "one\n")
		close(first)
		<-gate
		w.log1(r, 4, "two\n")
		return job.Succeeded, succeeded("one\ntwo\n")
	})
	j, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	<-first
	var out strings.Builder
	must(t, w.client.FollowLogs(w.ctx, j.ID, func(c api.LogChunk) error {
		if out.Len() == 0 {
			close(gate) // the first chunk came while the job ran
		}
		out.Write(c.Bytes())
		return nil
	}))
	if out.String() != "one\ntwo\n" {
		t.Errorf("got %q", out.String())
	}
}

func TestLogsSurviveARestartOfTheScheduler(t *testing.T) {
	w := newWorld(t, nil)
	gate := make(chan struct{})
	w.work(1, func(r job.Record) (job.State, *job.Result) {
		w.log1(r, 0, "one\n")
		<-gate
		w.log1(r, 4, "two\n")
		return job.Succeeded, succeeded("one\ntwo\n")
	})
	j, err := w.client.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	var out strings.Builder
	must(t, w.client.FollowLogs(w.ctx, j.ID, func(c api.LogChunk) error {
		if out.Len() == 0 {
			w.restart()
			close(gate)
		}
		out.Write(c.Bytes())
		return nil
	}))
	if out.String() != "one\ntwo\n" {
		t.Errorf("got %q", out.String())
	}
}

func TestLogsAreWholeThoughChunksWereLost(t *testing.T) {
	whole := "one\ntwo\nthree\n\xff"
	for name, chunks := range map[string][]int{
		"none is there":          {},
		"the first is missing":   {1, 2},
		"one between is missing": {0, 2},
		"the last is missing":    {0, 1},
		"all are there, twice":   {0, 1, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			offsets, pieces := []int64{0, 4, 8}, []string{"one\n", "two\n", "three\n\xff"}
			w.work(1, func(r job.Record) (job.State, *job.Result) {
				for _, i := range chunks {
					w.log1(r, offsets[i], pieces[i])
				}
				result := succeeded("")
				out := outputOf(whole)
				out.Text, out.Base64 = "", []byte(whole)
				result.Steps[0].Stdout = out
				return job.Succeeded, result
			})
			j, err := w.client.Submit(w.ctx, echo("x"), 20*time.Second)
			must(t, err)
			var out bytes.Buffer
			var after string
			n := 0
			must(t, w.client.Logs(w.ctx, j.ID, client.LogOptions{}, func(c api.LogChunk) error {
				out.Write(c.Bytes())
				if n++; n == 1 {
					after = c.Cursor
				}
				return nil
			}))
			if out.String() != whole {
				t.Errorf("got %q", out.String())
			}
			if len(chunks) == 0 || chunks[0] != 0 {
				return
			}
			var rest bytes.Buffer
			must(t, w.client.Logs(w.ctx, j.ID, client.LogOptions{After: after}, func(c api.LogChunk) error {
				rest.Write(c.Bytes())
				return nil
			}))
			if rest.String() != whole[4:] {
				t.Errorf("after the first chunk: %q", rest.String())
			}
		})
	}
}

func TestOutputAndArtifactsComeWhole(t *testing.T) {
	w := newWorld(t, nil)
	large := strings.Repeat("0123456789abcdef", 1<<16)
	w.work(1, func(r job.Record) (job.State, *job.Result) {
		result := succeeded("")
		out := outputOf(large)
		out.Text, out.Truncated, out.Ref = large[:100], true, r.ID+"/1/run/stdout"
		result.Steps[0].Stdout = out
		result.Artifacts = []job.Artifact{{Path: "out/a b.txt", Bytes: 5, SHA256: "x", Ref: r.ID + "/1/artifact/0"}}
		_, err := w.queue.Put(w.ctx, queue.Outputs, out.Ref, strings.NewReader(large))
		must(t, err)
		_, err = w.queue.Put(w.ctx, queue.Outputs, result.Artifacts[0].Ref, strings.NewReader("hello"))
		must(t, err)
		return job.Succeeded, result
	})
	j, err := w.client.Submit(w.ctx, echo("x"), 20*time.Second)
	must(t, err)
	read := func(r io.ReadCloser, err error) string {
		t.Helper()
		must(t, err)
		defer r.Close()
		data, err := io.ReadAll(r)
		must(t, err)
		return string(data)
	}
	if got := read(w.client.Output(w.ctx, j.ID, 0, "stdout")); got != large {
		t.Errorf("output has %d bytes of %d", len(got), len(large))
	}
	if got := read(w.client.Artifact(w.ctx, j.ID, "out/a b.txt")); got != "hello" {
		t.Errorf("artifact is %q", got)
	}
	list, err := w.client.Artifacts(w.ctx, j.ID)
	must(t, err)
	if len(list) != 1 || list[0].Path != "out/a b.txt" {
		t.Errorf("artifacts %+v", list)
	}
	_, err = w.client.Artifact(w.ctx, j.ID, "out/none")
	if p := problem(t, err); p.Status != 404 {
		t.Errorf("got %+v", p)
	}
	var out strings.Builder
	must(t, w.client.Logs(w.ctx, j.ID, client.LogOptions{}, func(c api.LogChunk) error { out.Write(c.Bytes()); return nil }))
	if out.String() != large {
		t.Errorf("log has %d bytes of %d", out.Len(), len(large))
	}
}
