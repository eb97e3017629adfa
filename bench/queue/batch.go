package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/bench/figure"
	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// bigBatch runs one batch as an object. The scheduler is killed while the
// items arrive, and twice while they run; at the end every item must have been
// counted once and have one result. The memory of scheduler and server is
// watched all along.
func (s *settings) bigBatch(ctx context.Context) (err error) {
	b, err := s.startSandlot(ctx, queue.Balanced, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	memory := b.watchMemory(ctx)
	id, began := client.NewBatch(), time.Now()
	if err := b.uploadBroken(ctx, id, s.items); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	uploaded := time.Since(began)
	fmt.Printf("%d items are stored after %.1f s, with one kill on the way\n", s.items, uploaded.Seconds())
	if err := b.startWorker(ctx); err != nil {
		return err
	}
	began = time.Now()
	for _, at := range []int{s.items / 3, 2 * s.items / 3, s.items} {
		counts, err := b.reach(ctx, id, at)
		if err != nil {
			return err
		}
		fmt.Printf("%d of %d have ended after %.1f s\n", counts.Final, counts.Jobs, time.Since(began).Seconds())
		if at < s.items {
			if err := b.killScheduler(ctx); err != nil {
				return err
			}
		}
	}
	ran := time.Since(began)
	counts, err := b.client.Batch(ctx, id)
	if err != nil {
		return err
	}
	began = time.Now()
	results, err := b.countResults(ctx, id, s.items)
	if err != nil {
		return err
	}
	most := memory()
	n := float64(s.items)
	err = figure.Write(filepath.Join(s.out, "batch.json"), map[string]string{"batch": "scheduler killed three times"}, []figure.Figure{
		figure.Of("batch_items", n, "items"),
		figure.Of("batch_upload_items_per_s", n/uploaded.Seconds(), "items/s"),
		figure.Of("batch_jobs_per_s", n/ran.Seconds(), "jobs/s"),
		figure.Of("batch_results_per_s", n/time.Since(began).Seconds(), "results/s"),
		figure.Of("batch_counted", float64(counts.States[job.Succeeded]), "jobs"),
		figure.Of("batch_results", float64(results), "results"),
		figure.Of("batch_scheduler_rss_mb", most.scheduler, "MB"),
		figure.Of("batch_server_rss_mb", most.server, "MB"),
		figure.Of("batch_together_rss_mb", most.together, "MB"),
	})
	if counts.States[job.Succeeded] != s.items || results != s.items || counts.State != job.BatchFinished {
		err = errors.Join(err, fmt.Errorf("of %d items %d are counted as succeeded and %d have a result; the batch is %s", s.items, counts.States[job.Succeeded], results, counts.State))
	}
	return err
}

// batchLines writes the items of a batch.
type batchLines struct {
	id    string
	items int
	next  int
	rest  []byte
	// at is called when the item of that number is about to be sent.
	mark int
	at   func()
}

// Read implements io.Reader.
func (l *batchLines) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		var out bytes.Buffer
		if l.next == 0 {
			fmt.Fprintf(&out, `{"batch":{"id":%q,"items":%d}}`+"\n", l.id, l.items)
		}
		for out.Len() < 32<<10 && l.next < l.items {
			if l.next == l.mark && l.at != nil {
				l.at()
				l.at = nil
			}
			fmt.Fprintf(&out, `{"key":"item/%d","image":%q,"command":["true","%d"]}`+"\n", l.next, image, l.next)
			l.next++
		}
		if out.Len() == 0 {
			return 0, io.EOF
		}
		l.rest = out.Bytes()
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// uploadBroken uploads a batch whose scheduler is killed half-way.
func (b *sandlot) uploadBroken(ctx context.Context, id string, items int) error {
	killed := make(chan error, 1)
	lines := &batchLines{id: id, items: items, mark: items / 2, at: func() {
		killed <- errors.Join(b.stored(ctx, id), b.kill())
	}}
	if _, err := b.client.UploadBatch(ctx, lines, -1); err == nil {
		return errors.New("it went through although the scheduler was killed")
	}
	if err := <-killed; err != nil {
		return err
	}
	if err := b.startScheduler(ctx); err != nil {
		return err
	}
	kept, err := b.client.Batch(ctx, id)
	if err != nil {
		return err
	}
	fmt.Printf("the scheduler was killed, %d lines are kept\n", kept.Lines)
	_, err = b.client.UploadBatch(ctx, &batchLines{id: id, items: items}, -1)
	return err
}

// stored waits until something of an upload is stored.
func (b *sandlot) stored(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if counts, err := b.client.Batch(ctx, id); err == nil && counts.Lines > 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("nothing of the upload is stored")
		}
	}
}

// kill ends the scheduler as the kernel would.
func (b *sandlot) kill() error {
	if err := b.scheduler.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = b.scheduler.cmd.Wait() // it was killed, and says so
	return nil
}

func (b *sandlot) killScheduler(ctx context.Context) error {
	if err := b.kill(); err != nil {
		return err
	}
	return b.startScheduler(ctx)
}

// reach waits until so many items have ended.
func (b *sandlot) reach(ctx context.Context, id string, n int) (api.Batch, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last, since := -1, time.Now()
	for {
		counts, err := b.client.Batch(ctx, id)
		if err == nil && (counts.Final >= n && n < counts.Jobs || counts.State.Final()) {
			return counts, nil
		}
		if err == nil && counts.Final > last {
			last, since = counts.Final, time.Now()
		}
		if time.Since(since) > 2*time.Minute {
			return counts, errors.Join(fmt.Errorf("nothing has ended for two minutes, at %d of %d", last, n), err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return counts, context.Cause(ctx)
		}
	}
}

// countResults reads all results and counts the items that have one.
func (b *sandlot) countResults(ctx context.Context, id string, items int) (int, error) {
	seen, n := make([]bool, items), 0
	err := b.client.BatchResults(ctx, id, client.ResultOptions{}, func(r api.BatchResult) error {
		_, index, ok := job.Item(r.ID)
		if !ok || index >= items || seen[index] || r.Key != "item/"+strconv.Itoa(index) || r.State != job.Succeeded {
			return fmt.Errorf("result of %q with key %q comes twice or is wrong: %s", r.ID, r.Key, r.State)
		}
		seen[index] = true
		n++
		return nil
	})
	return n, err
}

// memoryUse is the most that was resident, in MB of a million bytes.
type memoryUse struct{ scheduler, server, together float64 }

// watchMemory looks at what scheduler and server hold until the returned
// function is called.
func (b *sandlot) watchMemory(ctx context.Context) (stop func() memoryUse) {
	ctx, cancel := context.WithCancel(ctx)
	var most memoryUse
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			scheduler, server := resident(int(b.schedulerPID.Load())), resident(b.server.cmd.Process.Pid)
			most.scheduler, most.server = max(most.scheduler, scheduler), max(most.server, server)
			most.together = max(most.together, scheduler+server)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() memoryUse {
		cancel()
		done.Wait()
		return most
	}
}

// resident is what a process holds, 0 for one that has ended.
func resident(pid int) float64 {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		if text, ok := bytes.CutPrefix(in.Bytes(), []byte("VmRSS:")); ok {
			kib, err := strconv.Atoi(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(text), []byte("kB")))))
			if err != nil {
				return 0
			}
			return float64(kib) * 1024 / 1e6
		}
	}
	return 0
}
