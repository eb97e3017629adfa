package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/bench/figure"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// costJobs is how many jobs the cost of one is measured over.
const costJobs = 10_000

// cost measures the processor time of a job while few and while many others
// wait: as many are submitted as end, so that their number stays.
func (s *settings) cost(ctx context.Context) ([]figure.Figure, error) {
	var all []figure.Figure
	var points []point
	for _, backlog := range slices.Compact([]int{1000, min(10_000, s.backlog), min(100_000, s.backlog), s.backlog}) {
		m, err := s.costWith(ctx, backlog)
		if err != nil {
			return nil, fmt.Errorf("with %d jobs queued: %w", backlog, err)
		}
		fmt.Printf("with %d queued: %5.0f us of processor time a job %s, %.0f jobs/s\n", backlog, m.cpu, m.parts, m.rate)
		points = append(points, point{float64(backlog), m.cpu})
	}
	few, many := points[0].y, points[len(points)-1].y
	all = append(all, figure.Of("queue_cpu_us_per_job_1k", few, "us"),
		figure.Of("queue_cpu_us_per_job_"+short(s.backlog), many, "us"),
		figure.Of("queue_cpu_many_over_few", many/few, "ratio"))
	if err := os.MkdirAll(filepath.Dir(s.plot), 0o755); err != nil {
		return nil, err
	}
	return all, os.WriteFile(s.plot, plot(points), 0o644)
}

// short is a number as it stands in the name of a figure.
func short(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return strconv.Itoa(n/1_000_000) + "m"
	case n >= 1000 && n%1000 == 0:
		return strconv.Itoa(n/1000) + "k"
	}
	return strconv.Itoa(n)
}

func (s *settings) costWith(ctx context.Context, backlog int) (m measured, err error) {
	b, err := s.startSandlot(ctx, queue.Balanced, false)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	batch := client.NewBatch()
	if err := b.submit(ctx, batch, backlog); err != nil {
		return m, err
	}
	if err := b.startWorker(ctx); err != nil {
		return m, err
	}
	if err := b.steady(ctx, batch, backlog, 2*requestLines); err != nil { // warms up
		return m, err
	}
	n := min(costJobs, s.jobs)
	before, err := b.used()
	if err != nil {
		return m, err
	}
	began := time.Now()
	if err := b.steady(ctx, batch, backlog+2*requestLines, n); err != nil {
		return m, err
	}
	took := time.Since(began)
	after, err := b.used()
	return costs(n, took, before, after), err
}

// steady submits n jobs, each requestLines of them when as many have ended,
// and returns when n have.
func (b *sandlot) steady(ctx context.Context, batch string, first, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	start, err := b.finals(ctx)
	if err != nil {
		return err
	}
	for submitted := 0; ; {
		now, err := b.finals(ctx)
		if err != nil {
			return err
		}
		switch done := now - start; {
		case done >= n:
			return nil
		case submitted < n && submitted <= done:
			if err := b.request(ctx, batch, first+submitted, requestLines); err != nil {
				return err
			}
			submitted += requestLines
		default:
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return fmt.Errorf("%d of %d jobs have ended: %w", done, n, err)
			}
		}
	}
}

// finals is how many jobs have ended, as the scheduler's metrics say. Its
// lists know only the newest jobs.
func (b *sandlot) finals(ctx context.Context) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+b.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	total := 0.0
	in := bufio.NewScanner(answer.Body)
	for in.Scan() {
		if !strings.HasPrefix(in.Text(), "sandlot_jobs_final_total{") {
			continue
		}
		n, err := strconv.ParseFloat(in.Text()[strings.LastIndexByte(in.Text(), ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return int(total), in.Err()
}
