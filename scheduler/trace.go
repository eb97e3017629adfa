package scheduler

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

func (s *Scheduler) handleTrace(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.record(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	v, err := s.answer(r.Context(), rec)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, api.Trace{TraceID: v.TraceID, Job: rec.ID, State: rec.State, Spans: waterfall(rec, v.Timings)})
}

// waterfall is the spans of a job in the order of their beginnings. A step
// whose span is not in the record, because it was still open when the record
// was written, is drawn from the timings: from the end of the step before to
// its own.
func waterfall(rec job.Record, t job.Timings) []job.Span {
	spans := slices.Clone(rec.Spans)
	have := map[string]bool{}
	for _, span := range spans {
		have[span.Name] = true
	}
	root := rootSpan(rec.TraceParent)
	ends := timeOf(t)
	var last time.Time
	for _, step := range telemetry.Steps() {
		end := ends[step]
		if end.IsZero() {
			continue
		}
		if !have[step] && !last.IsZero() {
			spans = append(spans, job.Span{
				Name: step, ID: spanID(rec.ID, step), Parent: root, Service: serviceOf(step), Start: last, End: laterOf(last, end),
			})
		}
		last = laterOf(last, end)
	}
	slices.SortStableFunc(spans, func(a, b job.Span) int { return cmp.Or(a.Start.Compare(b.Start), b.End.Compare(a.End)) })
	return spans
}

func timeOf(t job.Timings) map[string]time.Time {
	return map[string]time.Time{
		telemetry.Submit: t.Submit, telemetry.Accept: t.Accept, telemetry.Release: t.Release, telemetry.Take: t.Take,
		telemetry.Claim: t.Claim, telemetry.Prepare: t.Prepare, telemetry.Run: t.Run, telemetry.Decide: t.Decide,
		telemetry.Commit: t.Commit, telemetry.Answer: t.Answer,
	}
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func serviceOf(step string) string {
	switch step {
	case telemetry.Submit, telemetry.Accept, telemetry.Release, telemetry.Answer:
		return "scheduler"
	}
	return "worker"
}

// rootSpan is the span that a W3C traceparent names.
func rootSpan(parent string) string {
	if parts := strings.Split(parent, "-"); len(parts) == 4 {
		return parts[2]
	}
	return ""
}

// spanID is the same for a step at every look.
func spanID(id, step string) string {
	sum := sha256.Sum256([]byte(id + "/" + step))
	return hex.EncodeToString(sum[:8])
}
