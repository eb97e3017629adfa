package scheduler

import "github.com/sandlot-dev/sandlot/pkg/queue"

// Hear has a scheduler that does not run know of the changes that it is told,
// as one that lags behind would.
func (s *Scheduler) Hear(batches []queue.BatchChange, records []queue.Change) {
	for _, c := range batches {
		s.folds.set(c)
	}
	for _, c := range records {
		s.apply(c)
	}
	close(s.folds.ready)
	s.index.caughtUp()
}
