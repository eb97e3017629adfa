package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sandlot-dev/sandlot/bench/figure"
)

// bench is how it is measured.
type bench struct {
	rounds      int
	turn        time.Duration
	concurrency []int
}

// series is what was measured of one contender with one program.
type series struct {
	contender, program string
	// latencies of jobs run one after the other, of all rounds.
	latencies []time.Duration
	// rates are the jobs per second of each round, by concurrency.
	rates map[int][]float64
}

// measure lets the contenders take turns, round after round.
func (b *bench) measure(ctx context.Context, contenders []named) ([]*series, error) {
	var all []*series
	for _, p := range programs {
		var these []*series
		for _, c := range contenders {
			these = append(these, &series{contender: c.name, program: p.name, rates: map[int][]float64{}})
			if err := c.once(ctx, p); err != nil { // brings its files into memory
				return nil, fmt.Errorf("%s, %s: %w", c.name, p.name, err)
			}
		}
		for round := 1; round <= b.rounds; round++ {
			fmt.Fprintf(os.Stderr, "%s, round %d of %d\n", p.name, round, b.rounds)
			for i, c := range contenders {
				if err := b.measureOne(ctx, c, p, these[i]); err != nil {
					return nil, fmt.Errorf("%s, %s: %w", c.name, p.name, err)
				}
			}
		}
		all = append(all, these...)
	}
	return all, nil
}

func (b *bench) measureOne(ctx context.Context, c contender, p program, s *series) error {
	latencies, _, err := together(ctx, c, p, 1, b.turn)
	if err != nil {
		return err
	}
	s.latencies = append(s.latencies, latencies...)
	for _, n := range b.concurrency {
		_, rate, err := together(ctx, c, p, n, b.turn)
		if err != nil {
			return err
		}
		s.rates[n] = append(s.rates[n], rate)
	}
	return nil
}

// together keeps n jobs under way for the length of a turn and lets those
// that have begun end. The rate counts all of them over all of the time.
func together(ctx context.Context, c contender, p program, n int, turn time.Duration) ([]time.Duration, float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	var mu sync.Mutex
	var latencies []time.Duration
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			for time.Since(began) < turn && ctx.Err() == nil {
				start := time.Now()
				if err := c.once(ctx, p); err != nil {
					cancel(err)
					return
				}
				took := time.Since(start)
				mu.Lock()
				latencies = append(latencies, took)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	return latencies, float64(len(latencies)) / time.Since(began).Seconds(), nil
}

func (s *series) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s.latencies))
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i]) / float64(time.Millisecond)
}

// rate is the median of the rounds at the best concurrency.
func (s *series) rate() (best float64, concurrency int) {
	for n, rounds := range s.rates {
		sorted := slices.Sorted(slices.Values(rounds))
		if median := sorted[len(sorted)/2]; median > best {
			best, concurrency = median, n
		}
	}
	return best, concurrency
}

func report(all []*series) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PROGRAM\tCONTENDER\tP50 ms\tP99 ms\tRUNS\tJOBS/S\tAT ONCE")
	for _, s := range all {
		rate, n := s.rate()
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%.1f\t%d\t%.1f\t%d\n",
			s.program, s.contender, s.quantile(0.5), s.quantile(0.99), len(s.latencies), rate, n)
	}
	_ = t.Flush() // a broken pipe has nobody to be told
}

// figures are those of every series, and how Sandlot's compare.
func figures(all []*series) []figure.Figure {
	var list []figure.Figure
	find := func(contender, program string) *series {
		return all[slices.IndexFunc(all, func(s *series) bool { return s.contender == contender && s.program == program })]
	}
	for _, s := range all {
		rate, n := s.rate()
		name := s.contender + "_" + s.program
		list = append(list,
			figure.Of(name+"_latency_p50", s.quantile(0.5), "ms"),
			figure.Of(name+"_latency_p99", s.quantile(0.99), "ms"),
			figure.Of(name+"_rate", rate, "jobs/s"),
			figure.Of(name+"_rate_concurrency", float64(n), "jobs"),
		)
	}
	for _, p := range programs {
		ours, _ := find("sandlot", p.name).rate()
		for _, other := range []string{"ctr", "runsc"} {
			theirs, _ := find(other, p.name).rate()
			list = append(list,
				figure.Of("sandlot_over_"+other+"_"+p.name+"_latency_p50",
					find("sandlot", p.name).quantile(0.5)/find(other, p.name).quantile(0.5), "ratio"),
				figure.Of("sandlot_over_"+other+"_"+p.name+"_rate", ours/theirs, "ratio"),
			)
		}
	}
	return list
}
