// Command peers runs jobs that do nothing on queues that others have made, as
// bench/queue has them run on ours: River on PostgreSQL, asynq on Redis.
//
//	peers river URL      peers asynq ADDRESS
//
// For each number that it reads it submits that many jobs, waits until the end
// of each is recorded in the store, and prints how many seconds that took. The
// settings are those of the projects' own benchmarks.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// insertBatch is how many jobs are submitted at once where that is possible.
const insertBatch = 1000

// peer is one of the queues, with its workers at work.
type peer interface {
	submit(ctx context.Context, n int) error
	// ended counts all jobs whose end is recorded in the store.
	ended(ctx context.Context) (int, error)
	close() error
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	start := map[string]func(context.Context, string) (peer, error){"river": startRiver, "asynq": startAsynq}
	if len(args) != 2 || start[args[0]] == nil {
		return errors.New("usage: peers river URL | peers asynq ADDRESS")
	}
	p, err := start[args[0]](ctx, args[1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	fmt.Println("ready")
	asked := make(chan int)
	go func() {
		defer close(asked)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			if n, err := strconv.Atoi(in.Text()); err == nil {
				asked <- n
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case n, ok := <-asked:
			if !ok {
				return nil
			}
			took, err := turn(ctx, p, n)
			if err != nil {
				return err
			}
			fmt.Println("took", took.Seconds())
		}
	}
}

// turn submits n jobs and waits for the end of all.
func turn(ctx context.Context, p peer, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	before, err := p.ended(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := p.submit(ctx, n); err != nil {
		return 0, err
	}
	for {
		now, err := p.ended(ctx)
		if err != nil {
			return 0, err
		}
		if now-before >= n {
			return time.Since(began), nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d jobs have ended: %w", now-before, n, context.Cause(ctx))
		}
	}
}
