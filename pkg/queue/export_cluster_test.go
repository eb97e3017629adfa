package queue

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// WrittenLate reports whether hints and workers are written late.
func WrittenLate(q *Queue, ctx context.Context) bool {
	late := 0
	for _, name := range []string{intakeStream, readyStream("main"), logStream, workerStream} {
		s, err := q.js.Stream(ctx, name)
		if err != nil {
			panic(err)
		}
		if s.CachedInfo().Config.PersistMode == jetstream.AsyncPersistMode {
			late++
		}
	}
	return late == 4
}
