package telemetry_test

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// BenchmarkStages makes the spans of an attempt where no collector is.
func BenchmarkStages(b *testing.B) {
	tel, err := telemetry.Setup(b.Context(), telemetry.Config{Service: "worker"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ctx, _ := tel.Job(telemetry.WithTraceParent(b.Context(), caller))
		for _, name := range telemetry.Steps() {
			_, stage := telemetry.Start(ctx, name, attribute.String(telemetry.KeyJob, "a"))
			stage.End(nil)
		}
	}
}
