package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

const caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func setup(t *testing.T, c telemetry.Config) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Setup(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	return tel
}

func TestSpansNestInTheCallersTrace(t *testing.T) {
	tel := setup(t, telemetry.Config{Service: "worker"})
	ctx, rec := tel.Job(telemetry.WithTraceParent(t.Context(), caller))
	ctx, outer := telemetry.Start(ctx, telemetry.Prepare)
	_, inner := telemetry.Start(ctx, telemetry.StageBoot, attribute.Int("sandlot.attempt", 2))
	inner.End(errors.New("no room"))
	outer.End(nil)
	outer.End(errors.New("twice"))

	spans := rec.Spans()
	if len(spans) != 2 {
		t.Fatalf("kept %d spans, want 2", len(spans))
	}
	boot, prepare := spans[0], spans[1]
	if prepare.Parent != "b7ad6b7169203331" || prepare.Name != "prepare" || prepare.Service != "worker" || prepare.Error != "" {
		t.Errorf("outer span is %+v", prepare)
	}
	if boot.Parent != prepare.ID || boot.Error != "no room" || boot.Attrs["sandlot.attempt"] != "2" {
		t.Errorf("inner span is %+v, its parent %s", boot, prepare.ID)
	}
	if got := telemetry.TraceID(ctx); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace id %s is not the caller's", got)
	}
	if boot.End.Before(boot.Start) || len(boot.ID) != 16 {
		t.Errorf("inner span is %+v", boot)
	}
}

func TestTraceContextTravelsInHeaders(t *testing.T) {
	tel := setup(t, telemetry.Config{Service: "scheduler"})
	ctx, _ := tel.Job(t.Context())
	ctx, stage := telemetry.Start(ctx, telemetry.Submit)
	defer stage.End(nil)

	message := map[string][]string{}
	telemetry.Inject(ctx, message)
	if got := telemetry.TraceID(telemetry.Extract(t.Context(), message)); got != telemetry.TraceID(ctx) || got == "" {
		t.Errorf("NATS headers carry trace %q, want %q", got, telemetry.TraceID(ctx))
	}
	request := http.Header{}
	request.Set("traceparent", telemetry.TraceParent(ctx))
	if got := telemetry.TraceParent(telemetry.Extract(t.Context(), request)); got != telemetry.TraceParent(ctx) {
		t.Errorf("HTTP headers carry %q, want %q", got, telemetry.TraceParent(ctx))
	}
	if got := telemetry.TraceIDOf("nonsense"); got != "" {
		t.Errorf("nonsense names trace %q", got)
	}
}

// The program in a sandbox sees the flags, wherever spans go.
func TestStagesKeepTheFlagsOfTheCaller(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	for name, config := range map[string]telemetry.Config{
		"without a collector": {Service: "worker"},
		"with one":            {Service: "worker", Endpoint: server.URL},
	} {
		t.Run(name, func(t *testing.T) {
			tel := setup(t, config)
			for caller, flags := range map[string]string{"": "-01", caller: "-01", caller[:len(caller)-1] + "0": "-00"} {
				ctx, _ := tel.Job(telemetry.WithTraceParent(t.Context(), caller))
				ctx, stage := telemetry.Start(ctx, telemetry.Submit)
				got := telemetry.TraceParent(ctx)
				if span := stage.End(nil); !strings.HasSuffix(got, flags) || !strings.Contains(got, "-"+span.ID+"-") {
					t.Errorf("caller %q: traceparent %q of span %q", caller, got, span.ID)
				}
			}
		})
	}
}

func TestSpansReachTheCollector(t *testing.T) {
	cases := map[string]struct {
		config func(server string) telemetry.Config
		path   string
	}{
		"below the base of all signals": {
			func(server string) telemetry.Config { return telemetry.Config{Endpoint: server + "/otlp"} }, "/otlp/v1/traces",
		},
		"at the whole URL of traces": {
			func(server string) telemetry.Config { return telemetry.Config{TracesEndpoint: server + "/ingest"} }, "/ingest",
		},
		"at the URL of traces where both are given": {
			func(server string) telemetry.Config {
				return telemetry.Config{Endpoint: server + "/otlp", TracesEndpoint: server}
			}, "/",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			type request struct {
				path string
				body []byte
			}
			got := make(chan request, 4)
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got <- request{r.URL.Path, body}
			}))
			defer server.Close()
			config := c.config(server.URL)
			config.Service, config.Instance = "worker", "w1"
			tel := setup(t, config)
			ctx, _ := tel.Job(t.Context())
			_, stage := telemetry.Start(ctx, telemetry.Run)
			stage.End(nil)
			if err := tel.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			select {
			case r := <-got:
				var spans collector.ExportTraceServiceRequest
				if err := proto.Unmarshal(r.body, &spans); err != nil {
					t.Fatal(err)
				}
				if name := spans.ResourceSpans[0].ScopeSpans[0].Spans[0].Name; name != "run" || r.path != c.path {
					t.Errorf("collector got span %q at %s, want run at %s", name, r.path, c.path)
				}
			default:
				t.Error("collector got nothing")
			}
		})
	}
}

func TestStagesWithoutATraceDoNoHarm(t *testing.T) {
	_, stage := telemetry.Start(t.Context(), telemetry.Run)
	stage.Set(attribute.String("k", "v"))
	if span := stage.End(nil); span.Name != "run" || span.ID != "" {
		t.Errorf("span is %+v", span)
	}
	var none *telemetry.Telemetry
	ctx, rec := none.Job(t.Context())
	_, stage = telemetry.Start(ctx, telemetry.Run)
	stage.End(nil)
	if n := len(rec.Spans()); n != 0 {
		t.Errorf("the nil telemetry kept %d spans", n)
	}
	if err := none.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestLogLinesCarryTheTrace(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(telemetry.LogHandler(slog.NewJSONHandler(&out, nil))).With("worker", "w1")
	log.InfoContext(telemetry.WithTraceParent(t.Context(), caller), "claimed")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line["trace_id"] != "0af7651916cd43dd8448eb211c80319c" || line["worker"] != "w1" {
		t.Errorf("line is %v", line)
	}
}
