package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// maxSpans bounds what one role keeps of one job, so that a record stays
// small whatever the job does.
const maxSpans = 128

// Recording collects the spans that one role makes for one job.
type Recording struct {
	tel *Telemetry

	mu    sync.Mutex
	spans []job.Span
}

type recordingKey struct{}

// Job begins the recording of one job. The spans started from the returned
// context are part of the trace that ctx is in; use [WithTraceParent] or
// [Extract] first to join one.
func (t *Telemetry) Job(ctx context.Context) (context.Context, *Recording) {
	r := &Recording{tel: t}
	return context.WithValue(ctx, recordingKey{}, r), r
}

// Spans is what was recorded so far, in the order in which the stages ended.
func (r *Recording) Spans() []job.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]job.Span(nil), r.spans...)
}

func (r *Recording) add(s job.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spans == nil {
		r.spans = make([]job.Span, 0, 8) // what an attempt has at least
	}
	if len(r.spans) < maxSpans {
		r.spans = append(r.spans, s)
	}
}

// Stage is one span of a job while it lasts. Its methods may be called by one
// goroutine at a time.
type Stage struct {
	recording *Recording
	span      trace.Span // nil where spans go nowhere but into the record
	id        trace.SpanID
	parent    trace.SpanContext
	name      string
	start     time.Time
	attrs     map[string]string
	done      bool
	result    job.Span
}

// Start begins a stage, nested in that of ctx. Without a recording in ctx the
// stage measures time and records nothing.
func Start(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, *Stage) {
	return StartAt(ctx, name, time.Now(), attrs...)
}

// StartAt begins a stage that began at the given moment.
func StartAt(ctx context.Context, name string, start time.Time, attrs ...attribute.KeyValue) (context.Context, *Stage) {
	s := &Stage{name: name, start: start}
	s.recording, _ = ctx.Value(recordingKey{}).(*Recording)
	s.Set(attrs...)
	if s.recording == nil || s.recording.tel == nil {
		return ctx, s
	}
	s.parent = trace.SpanContextFromContext(ctx)
	if tracer := s.recording.tel.tracer; tracer != nil {
		ctx, s.span = tracer.Start(ctx, name, trace.WithTimestamp(start), trace.WithAttributes(attrs...))
		s.id = s.span.SpanContext().SpanID()
		return ctx, s
	}
	here := child(s.parent)
	s.id = here.SpanID()
	return trace.ContextWithSpanContext(ctx, here), s
}

// child is what the tracer would make of a span below parent, without the span.
func child(parent trace.SpanContext) trace.SpanContext {
	c := trace.SpanContextConfig{TraceID: parent.TraceID(), TraceFlags: parent.TraceFlags(), TraceState: parent.TraceState()}
	if !c.TraceID.IsValid() {
		c.TraceFlags = trace.FlagsSampled
		binary.NativeEndian.PutUint64(c.TraceID[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(c.TraceID[8:], rand.Uint64()|1) // never zero
	}
	binary.NativeEndian.PutUint64(c.SpanID[:], rand.Uint64()|1)
	return trace.NewSpanContext(c)
}

// Set adds attributes to the stage.
func (s *Stage) Set(attrs ...attribute.KeyValue) {
	if s.attrs == nil && len(attrs) > 0 {
		s.attrs = make(map[string]string, len(attrs))
	}
	for _, a := range attrs {
		s.attrs[string(a.Key)] = a.Value.String()
	}
	if s.span != nil {
		s.span.SetAttributes(attrs...)
	}
}

// End ends the stage, now, with the error that it failed with or nil, and
// yields it as it stands in the record. Ending twice is harmless: the first
// counts.
func (s *Stage) End(err error) job.Span { return s.EndAt(time.Now(), err) }

// EndAt is End at the given moment.
func (s *Stage) EndAt(end time.Time, err error) job.Span {
	if s.done {
		return s.result
	}
	s.done = true
	if end.Before(s.start) {
		end = s.start
	}
	s.result = job.Span{Name: s.name, Start: s.start.UTC(), End: end.UTC(), Attrs: s.attrs}
	if err != nil {
		s.result.Error = err.Error()
	}
	if !s.id.IsValid() {
		return s.result // nobody records
	}
	if s.span != nil {
		if err != nil {
			s.span.SetStatus(codes.Error, err.Error())
		}
		s.span.End(trace.WithTimestamp(end))
	}
	s.result.Service = s.recording.tel.service
	s.result.ID = s.id.String()
	if s.parent.HasSpanID() {
		s.result.Parent = s.parent.SpanID().String()
	}
	s.recording.add(s.result)
	return s.result
}
