package telemetry

import (
	"context"
	"fmt"
	"net/url"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config says who makes spans and where they go.
type Config struct {
	// Service is the role: "scheduler" or "worker". Required.
	Service string
	// Instance tells processes of one role apart, such as the worker's id.
	Instance string
	// Version is that of the program.
	Version string
	// Endpoint is the base URL of an OTLP/HTTP collector, such as
	// "http://127.0.0.1:4318"; traces go to v1/traces below it.
	Endpoint string
	// TracesEndpoint is the whole URL that traces go to, before Endpoint.
	// Both empty: spans are kept with the job only.
	TracesEndpoint string
}

// Telemetry makes the spans of one role. The nil Telemetry makes none.
type Telemetry struct {
	service string
	// Both nil without a collector: what stands in the record needs no spans
	// of the SDK, which cost more than the rest of a stage.
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// Setup starts telemetry for one role; Shutdown ends it.
func Setup(ctx context.Context, c Config) (*Telemetry, error) {
	t := &Telemetry{service: c.Service}
	target, err := c.target()
	if err != nil {
		return nil, fmt.Errorf("endpoint of the collector: %w", err)
	}
	if target == "" {
		return t, nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(target))
	if err != nil {
		return nil, fmt.Errorf("start trace exporter: %w", err)
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.namespace", "sandlot"),
			attribute.String("service.name", "sandlot-"+c.Service),
			attribute.String("service.instance.id", c.Instance),
			attribute.String("service.version", c.Version),
		)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
		sdktrace.WithBatcher(exporter),
	)
	t.tracer = t.provider.Tracer("github.com/sandlot-dev/sandlot")
	return t, nil
}

// target is where traces go, empty for nowhere. The exporter would take a URL
// that it cannot read for none.
func (c Config) target() (string, error) {
	if c.TracesEndpoint != "" {
		_, err := url.Parse(c.TracesEndpoint)
		return c.TracesEndpoint, err
	}
	if c.Endpoint == "" {
		return "", nil
	}
	return url.JoinPath(c.Endpoint, "v1/traces")
}

// Shutdown sends what is still held to the collector, as long as ctx lasts.
// It is safe to call twice.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t == nil || t.provider == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("stop trace exporter: %w", err)
	}
	return nil
}
