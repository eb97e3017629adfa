package scheduler_test

import (
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

// BenchmarkBatchLine is one line of a batch, from the client to its answer.
func BenchmarkBatchLine(b *testing.B) {
	w := newWorld(b, nil)
	body := lines(b.N)
	b.ResetTimer()
	must(b, w.client.SubmitMany(w.ctx, client.NewBatch(), strings.NewReader(body), func(a api.LineAnswer) error {
		if a.ID == "" {
			b.Errorf("refused: %v", a.Error)
		}
		return nil
	}))
}

// BenchmarkSubmit is one submit, one after the other.
func BenchmarkSubmit(b *testing.B) {
	w := newWorld(b, nil)
	for b.Loop() {
		_, err := w.client.Submit(w.ctx, echo("x"), 0)
		must(b, err)
	}
}
