package telemetry

import (
	"context"
	"net/textproto"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// headers carries W3C trace context in the headers of HTTP and of NATS, which
// are both maps of lists. Keys are kept as they are for NATS, which does not
// fold case; both spellings are read.
type headers map[string][]string

func (h headers) Get(key string) string {
	for _, k := range []string{key, textproto.CanonicalMIMEHeaderKey(key)} {
		if v := h[k]; len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

func (h headers) Set(key, value string) { h[key] = []string{value} }

func (h headers) Keys() []string {
	keys := make([]string, 0, len(h))
	for k := range h {
		keys = append(keys, k)
	}
	return keys
}

// Inject writes the trace context of ctx into the headers of a message.
func Inject(ctx context.Context, header map[string][]string) {
	propagation.TraceContext{}.Inject(ctx, headers(header))
}

// Extract is ctx with the trace context found in the headers, if any.
func Extract(ctx context.Context, header map[string][]string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, headers(header))
}

// TraceParent is the W3C traceparent of ctx, empty without a trace.
func TraceParent(ctx context.Context) string {
	carrier := headers{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get("traceparent")
}

// WithTraceParent is ctx with the given W3C traceparent as its parent. One
// that is not well formed changes nothing.
func WithTraceParent(ctx context.Context, parent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, headers{"traceparent": {parent}})
}

// TraceID is the trace of ctx as 32 hex digits, empty without a trace.
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}

// TraceIDOf is the trace that a W3C traceparent names, empty if it is not well
// formed.
func TraceIDOf(parent string) string {
	return TraceID(WithTraceParent(context.Background(), parent))
}
