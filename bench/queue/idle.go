package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/bench/figure"
	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// idleJobs is how many jobs are run one at a time, idleWarm how many before.
const (
	idleJobs = 1000
	idleWarm = 100
)

// idle measures one job at a time on a queue that has nothing else to do:
// from the submit to the answer that holds the result.
func (s *settings) idle(ctx context.Context) (_ []figure.Figure, err error) {
	b, err := s.startSandlot(ctx, queue.Balanced, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var took []float64
	for i := range idleWarm + min(idleJobs, s.jobs) {
		began := time.Now()
		j, err := b.client.Submit(ctx, api.Submit{Image: image, Command: []string{"true"}}, time.Minute)
		if err != nil {
			return nil, err
		}
		if j.State != job.Succeeded {
			return nil, fmt.Errorf("job %s is %s", j.ID, j.State)
		}
		if i >= idleWarm {
			took = append(took, float64(time.Since(began))/float64(time.Millisecond))
		}
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	fmt.Printf("one at a time: p50 %.2f ms, p99 %.2f ms\n", p50, p99)
	return []figure.Figure{figure.Of("queue_idle_p50_ms", p50, "ms"), figure.Of("queue_idle_p99_ms", p99, "ms")}, nil
}
