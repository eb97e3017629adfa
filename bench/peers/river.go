package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// noopArgs are those of a job that does nothing.
type noopArgs struct {
	Number int `json:"number"`
}

// Kind names the job.
func (noopArgs) Kind() string { return "noop" }

type noopWorker struct{ river.WorkerDefaults[noopArgs] }

// Work does nothing.
func (noopWorker) Work(context.Context, *river.Job[noopArgs]) error { return nil }

type riverPeer struct {
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	// completed counts the events by which River tells of ends that it has
	// stored; asking the table each time would cost it more than the jobs.
	completed atomic.Int64
	listening chan struct{}
}

// startRiver starts a client with the settings that River's own benchmark has.
func startRiver(ctx context.Context, url string) (peer, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 32
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, fmt.Errorf("make tables: %w", err)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{})
	p := &riverPeer{pool: pool, listening: make(chan struct{})}
	p.client, err = river.NewClient(driver, &river.Config{
		FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2000}},
		Workers: workers, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return nil, err
	}
	events, _ := p.client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: 100_000, Kinds: []river.EventKind{river.EventKindJobCompleted},
	})
	go func() {
		defer close(p.listening)
		for range events {
			p.completed.Add(1)
		}
	}()
	return p, p.client.Start(context.WithoutCancel(ctx))
}

func (p *riverPeer) submit(ctx context.Context, n int) error {
	for first := 0; first < n; first += insertBatch {
		params := make([]river.InsertManyParams, min(insertBatch, n-first))
		for i := range params {
			params[i].Args = noopArgs{first + i}
		}
		if _, err := p.client.InsertManyFast(ctx, params); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
	}
	return nil
}

func (p *riverPeer) ended(context.Context) (int, error) { return int(p.completed.Load()), nil }

func (p *riverPeer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := p.client.Stop(ctx)
	var stored int
	if scan := p.pool.QueryRow(ctx, "SELECT count(*) FROM river_job WHERE state = 'completed'").Scan(&stored); scan != nil {
		err = errors.Join(err, scan)
	} else if told := int(p.completed.Load()); stored < told {
		err = errors.Join(err, fmt.Errorf("River told of %d ends and has stored %d", told, stored))
	}
	p.pool.Close()
	<-p.listening
	return err
}
