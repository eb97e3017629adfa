package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hibiken/asynq"
)

// asynq can insert one task at a time only; this many do so at once.
const inserters = 16

type asynqPeer struct {
	client    *asynq.Client
	server    *asynq.Server
	inspector *asynq.Inspector
}

// startAsynq starts a server with as many workers as its README and its own
// benchmark have.
func startAsynq(_ context.Context, address string) (peer, error) {
	redis := asynq.RedisClientOpt{Addr: address}
	p := &asynqPeer{
		client: asynq.NewClient(redis), inspector: asynq.NewInspector(redis),
		server: asynq.NewServer(redis, asynq.Config{Concurrency: 10, LogLevel: asynq.ErrorLevel}),
	}
	mux := asynq.NewServeMux()
	mux.HandleFunc("noop", func(context.Context, *asynq.Task) error { return nil })
	return p, p.server.Start(mux)
}

// submit enqueues tasks that stay in the store when they are done, since the
// end of a job is to be recorded.
func (p *asynqPeer) submit(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	for part := range inserters {
		wait.Go(func() {
			for i := part; i < n && ctx.Err() == nil; i += inserters {
				task := asynq.NewTask("noop", fmt.Appendf(nil, `{"number":%d}`, i), asynq.Retention(24*time.Hour))
				if _, err := p.client.EnqueueContext(ctx, task); err != nil {
					cancel(fmt.Errorf("enqueue: %w", err))
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

func (p *asynqPeer) ended(context.Context) (int, error) {
	queues, err := p.inspector.Queues()
	if err != nil || len(queues) == 0 { // none before the first submit
		return 0, err
	}
	info, err := p.inspector.GetQueueInfo("default")
	if err != nil {
		return 0, err
	}
	return info.Completed, nil
}

func (p *asynqPeer) close() error {
	p.server.Shutdown()
	return errors.Join(p.client.Close(), p.inspector.Close())
}
