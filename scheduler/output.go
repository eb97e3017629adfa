package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// output opens all that is kept of what a step wrote.
func (s *Scheduler) output(ctx context.Context, out job.Output) (io.ReadCloser, error) {
	if out.Ref == "" {
		if out.Base64 != nil {
			return io.NopCloser(bytes.NewReader(out.Base64)), nil
		}
		return io.NopCloser(bytes.NewReader([]byte(out.Text))), nil
	}
	r, _, err := s.Queue.Open(ctx, queue.Outputs, out.Ref)
	if err != nil {
		return nil, fmt.Errorf("open output %s: %w", out.Ref, err)
	}
	return r, nil
}

// handleOutput answers with all that a step wrote to one of its streams. The
// step is named, or counted from 0.
func (s *Scheduler) handleOutput(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.ended(r)
	if err != nil {
		return err
	}
	step, ok := stepOf(rec, r.PathValue("step"))
	if !ok {
		return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "the job has no result of a step %q", clean(r.PathValue("step")))
	}
	out := step.Stdout
	switch r.PathValue("stream") {
	case "stdout":
	case "stderr":
		out = step.Stderr
	default:
		return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "a step has stdout and stderr, not %q", clean(r.PathValue("stream")))
	}
	body, err := s.output(r.Context(), out)
	if err != nil {
		return err
	}
	defer body.Close()
	w.Header().Set("Sandlot-SHA256", out.SHA256)
	if out.Ref == "" && out.Truncated {
		w.Header().Set("Sandlot-Truncated", "true")
	}
	size := out.Bytes
	if out.Ref == "" {
		size = int64(max(len(out.Text), len(out.Base64)))
	}
	return stream(w, body, size)
}

func stepOf(rec job.Record, name string) (job.StepResult, bool) {
	for i, step := range rec.Result.Steps {
		if step.Name == name || strconv.Itoa(i) == name {
			return step, true
		}
	}
	return job.StepResult{}, false
}

// ended is the record of the request's job, which must have a result.
func (s *Scheduler) ended(r *http.Request) (job.Record, error) {
	rec, err := s.record(r.Context(), r.PathValue("id"))
	if err != nil {
		return rec, err
	}
	if !rec.State.Final() {
		return rec, fmt.Errorf("result of job %s: %w", rec.ID, job.ErrNotFinal)
	}
	if rec.Result == nil {
		rec.Result = &job.Result{}
	}
	return rec, nil
}

func (s *Scheduler) handleArtifacts(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.ended(r)
	if err != nil {
		return err
	}
	list := rec.Result.Artifacts
	if list == nil {
		list = []job.Artifact{}
	}
	return writeJSON(w, http.StatusOK, api.Artifacts{Artifacts: list})
}

func (s *Scheduler) handleArtifact(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.ended(r)
	if err != nil {
		return err
	}
	for _, a := range rec.Result.Artifacts {
		if a.Path != r.PathValue("path") {
			continue
		}
		body, _, err := s.Queue.Open(r.Context(), queue.Outputs, a.Ref)
		if err != nil {
			return fmt.Errorf("open artifact %s: %w", a.Ref, err)
		}
		defer body.Close()
		w.Header().Set("Sandlot-SHA256", a.SHA256)
		return stream(w, body, a.Bytes)
	}
	return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "the job left no artifact %q", clean(r.PathValue("path")))
}

// stream sends a body of known size. It is a program's output: no browser may
// take it for anything else than bytes.
func stream(w http.ResponseWriter, body io.Reader, size int64) error {
	w.Header().Set("Content-Type", typeBytes)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Disposition", "attachment")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	piece := make([]byte, 64<<10)
	for sent := int64(0); ; {
		n, err := body.Read(piece)
		if n > 0 {
			soon(w)
			if _, err := w.Write(piece[:n]); err != nil {
				return err
			}
			sent += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF) && sent == size:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("stored body has %d of %d bytes", sent, size)
		case err != nil:
			return err
		}
	}
}
