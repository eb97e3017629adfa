package gvisor

import (
	"context"
	"fmt"
	"time"
)

const (
	// steadyAfter is how long a life must last for its death to be an accident.
	steadyAfter = 30 * time.Second
	// maxDeaths in a row, none of them steady, and supervision gives up.
	maxDeaths = 6
	minPause  = 100 * time.Millisecond
	maxPause  = 5 * time.Second
)

// supervise keeps containerd alive until ctx ends, and then stops it. It fails
// when containerd keeps dying.
func (c *Containerd) supervise(ctx context.Context, now *life) error {
	deaths, born := 0, time.Now()
	for {
		select {
		case <-ctx.Done():
			c.setDown()
			now.stop()
			return nil
		case <-now.exited:
		}
		c.setDown()
		if time.Since(born) > steadyAfter {
			deaths = 0
		}
		c.config.Logger.Error("containerd died", "error", now.err, "log", c.layout.log())
		for {
			if deaths++; deaths > maxDeaths {
				return fmt.Errorf("containerd does not stay up (see %s): %w", c.layout.log(), now.err)
			}
			next, err := c.restart(ctx, deaths)
			if ctx.Err() != nil {
				if next != nil {
					next.stop()
				}
				return nil
			}
			if err == nil {
				now, born = next, time.Now()
				break
			}
			c.config.Logger.Error("containerd does not start", "error", err)
		}
		c.setUp()
		c.config.Logger.Info("containerd is back")
	}
}

// restart makes a clean place and starts the next life in it, after a pause
// that grows with every death.
func (c *Containerd) restart(ctx context.Context, deaths int) (*life, error) {
	pause := time.NewTimer(min(minPause<<(deaths-1), maxPause))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-pause.C:
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.renew(ctx); err != nil {
		return nil, err
	}
	next, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	// Not the old connection, which may be pausing between two attempts.
	if err := c.client.Reconnect(); err != nil {
		next.stop()
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	return next, nil
}

// setDown tells running attempts that nothing of them is left.
func (c *Containerd) setDown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.gone)
	c.up = make(chan struct{})
}

func (c *Containerd) setUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gone:
		c.gone = make(chan struct{})
	default:
	}
	close(c.up)
}
