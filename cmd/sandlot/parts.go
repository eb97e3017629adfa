package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// parts are what runs in this process. Each is added after those it needs
// and closed before them.
type parts struct {
	log  *slog.Logger
	fail context.CancelCauseFunc
	list []part
}

type part struct {
	name  string
	close func(context.Context) error
}

// newParts returns an empty list and the context that ends when one of its
// parts ends by itself, with that as the cause.
func newParts(ctx context.Context, log *slog.Logger) (*parts, context.Context) {
	ctx, fail := context.WithCancelCause(ctx)
	return &parts{log: log, fail: fail}, ctx
}

// add notes how to close what has been started.
func (p *parts) add(name string, close func(context.Context) error) {
	p.list = append(p.list, part{name, close})
}

// run starts f, which ends with its context. That is ended only when the
// turn of f comes, so that a worker can still reach the queue while it drains.
func (p *parts) run(ctx context.Context, name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended unasked")
			}
			p.fail(fmt.Errorf("%s: %w", name, err))
			err = nil // told as the cause
		}
		done <- err
	}()
	p.add(name, func(context.Context) error {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

// close closes all parts, the last one first, and is harmless the second
// time. It goes on after an error and returns the first.
func (p *parts) close(ctx context.Context) error {
	var first error
	for len(p.list) > 0 {
		last := p.list[len(p.list)-1]
		p.list = p.list[:len(p.list)-1]
		p.log.Debug("closing", "part", last.name)
		if err := last.close(ctx); err != nil {
			err = fmt.Errorf("close %s: %w", last.name, err)
			p.log.Error("close", "error", err)
			if first == nil {
				first = err
			}
		}
	}
	p.fail(nil)
	return first
}
