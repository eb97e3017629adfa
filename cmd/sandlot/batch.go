package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

func (a *app) batchCmd() *cobra.Command {
	return group(&cobra.Command{Use: "batch", Short: "Run many jobs from a file", GroupID: groupJobs}, append([]*cobra.Command{a.batchRunCmd()}, a.batchCommands()...)...)
}

func (a *app) batchRunCmd() *cobra.Command {
	var out, resume string
	var local localConfig
	cmd := &cobra.Command{
		Use:   "run FILE.jsonl --out RESULTS.jsonl",
		Short: "Run every line of a file as a job and write the results as they come",
		Long: `Run every line of a file as a job and write the results as they come.

A line is a job as the HTTP API takes it, with a key that no other line has:
  {"key":"a/1","language":"python","code":"print(1)"}
A line of the results is the job's result with its key. A line that is refused
yields {"key":…,"state":"rejected","error":{…}}, its number is told on stderr, the
others run, and the command exits with 3. The order of the results is that in
which the jobs ended.

When the command is interrupted the jobs go on; --resume BATCH, with the same
files, continues where it was.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usageError{cmd, errors.New("say where the results go: --out RESULTS.jsonl")}
			}
			r := batchRun{app: a, in: args[0], out: out, batch: resume, resumed: resume != "", local: local}
			return r.run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "file for the results")
	cmd.Flags().StringVar(&resume, "resume", "", "continue this batch; results that are in the file already stay")
	local.flags(cmd.Flags())
	return cmd
}

// batchRun is one run of a batch's file.
type batchRun struct {
	*app
	in, out string
	// batch is the id that the server knows it by.
	batch   string
	resumed bool
	local   localConfig

	file     *batchFile
	results  *resultFile
	progress *progress
	// sending is true while lines may still become jobs.
	sending atomic.Bool
	// accepted counts the jobs whose results are to come.
	accepted atomic.Int64
	refused  atomic.Int64
}

func (b *batchRun) run(ctx context.Context) (err error) {
	if b.file, err = openBatch(b.in, b.stdin); err != nil {
		return err
	}
	defer b.file.Close()
	if sameFile(b.in, b.out) {
		return problems{"--out " + b.out + " is the file with the jobs; write the results to another"}
	}
	if b.batch == "" {
		b.batch = client.NewBatch()
	}
	ctx, server, err := b.connect(ctx, b.local, b.file.needs, patient)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := server.close(); err == nil {
			err = closeErr
		}
	}()
	if b.results, err = b.openResults(); err != nil {
		return err
	}
	defer func() { _ = b.results.Close() }() // each line was written by itself
	fmt.Fprintf(b.stderr, "batch %s: %d jobs\n", b.batch, len(b.file.keys))

	err = b.exchange(ctx, server.Client)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		b.sayHowToResume(server)
		return err
	}
	if b.output == "json" {
		if err := b.show(b.summary(), nil); err != nil {
			return err
		}
	}
	if b.refused.Load() > 0 {
		return exitError{exitRejected}
	}
	return nil
}

// summary is what --output json prints at the end.
func (b *batchRun) summary() map[string]any {
	return map[string]any{
		"batch": b.batch, "jobs": len(b.file.keys), "rejected": b.refused.Load(), "results": b.out,
		"verdicts": b.progress.counts,
	}
}

func (b *batchRun) openResults() (*resultFile, error) {
	if b.resumed {
		return continueResults(b.out)
	}
	return createResults(b.out)
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// exchange sends the lines and takes the results, both at once.
func (b *batchRun) exchange(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.progress = newProgress(b.stderr, len(b.file.keys)+len(b.file.refused))
	defer b.progress.Close()
	b.progress.addMany("done before", b.results.count())
	for _, r := range b.file.refused {
		if err := b.refuse("", r); err != nil {
			return err
		}
	}

	b.sending.Store(true)
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() {
		defer b.sending.Store(false)
		if err := b.send(ctx, c); err != nil {
			cancel(err)
		}
	})
	err := c.BatchResults(ctx, b.batch, client.ResultOptions{Follow: true, More: b.sending.Load}, b.take)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if isNotFound(err) && b.accepted.Load() == 0 {
		err = nil // every line was refused or is in the file already
	}
	cancel(err)
	wait.Wait()
	if err == nil {
		err = b.complete()
	}
	return err
}

// send submits the lines that have no result yet.
func (b *batchRun) send(ctx context.Context, c *client.Client) error {
	reader, writer := io.Pipe()
	var mu sync.Mutex
	var numbers []int // of the lines sent, in order
	done := make(chan struct{})
	go func() {
		defer close(done)
		writer.CloseWithError(b.file.sendable(b.results.has, writer, func(line int) {
			mu.Lock()
			defer mu.Unlock()
			numbers = append(numbers, line)
		}))
	}()
	err := c.SubmitMany(ctx, b.batch, reader, func(answer api.LineAnswer) error {
		mu.Lock()
		line := numbers[answer.Line-1]
		mu.Unlock()
		if answer.State != api.Rejected {
			b.accepted.Add(1)
			return nil
		}
		return b.refuse(answer.Key, rejection{&answer.Key, line, api.Rejected, answer.Error})
	})
	_ = reader.Close() // ends the writer when the submit failed
	<-done
	return err
}

// refuse writes a line that did not become a job.
func (b *batchRun) refuse(key string, r rejection) error {
	fresh, err := b.results.add(key, r)
	if fresh {
		b.refused.Add(1)
		b.progress.say(r.String())
		b.progress.add(string(api.Rejected))
	}
	return err
}

// take writes a result, unless its key has one.
func (b *batchRun) take(r api.BatchResult) error {
	if _, ours := b.file.keys[r.Key]; !ours {
		return nil // the file has lost this line since
	}
	fresh, err := b.results.add(r.Key, r.Job)
	if fresh && r.Verdict != nil {
		b.progress.add(verdictWord(r.State, r.Verdict.Blame))
	} else if fresh {
		b.progress.add(string(r.State))
	}
	return err
}

// complete checks that every key has its line.
func (b *batchRun) complete() error {
	missing := 0
	first := ""
	for key := range b.file.keys {
		if !b.results.has(key) {
			missing++
			first = key
		}
	}
	if missing > 0 {
		return fmt.Errorf("the server has no result for %d of %d jobs, such as %q; were they removed?", missing, len(b.file.keys), first)
	}
	return nil
}

// sayHowToResume tells what an interrupted run leaves behind.
func (b *batchRun) sayHowToResume(s *server) {
	fmt.Fprintf(b.stderr, "%d of %d results are in %s.\n", b.results.count(), len(b.file.keys), b.out)
	if s.temporary {
		fmt.Fprintln(b.stderr, "The server was only for this run; with a --data-dir it could be continued.")
		return
	}
	fmt.Fprintf(b.stderr, "Go on with:   sandlot batch run %s --out %s --resume %s%s%s\n", b.in, b.out, b.batch, localFlag(b.local), b.sameServer())
	if !b.local.Local {
		fmt.Fprintf(b.stderr, "Or end it by: sandlot jobs cancel --batch %s%s\n", b.batch, b.sameServer())
	}
}

// sameServer is how another command line names the same server.
func (a *app) sameServer() string {
	switch {
	case a.server != "":
		return " --server " + a.server
	case a.dataDirGiven:
		return " --data-dir " + a.dataDir
	}
	return ""
}

func isNotFound(err error) bool {
	p, ok := errors.AsType[*api.Problem](err)
	return ok && p.Status == http.StatusNotFound
}

func localFlag(c localConfig) string {
	if c.Local {
		return " --local"
	}
	return ""
}
