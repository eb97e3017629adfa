package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// batchFlags are the settings of a batch as flags.
type batchFlags struct {
	id, name, template, callback string
	stopAfter, passed, groups    int
	ratio                        float64
}

func (b *batchFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&b.id, "id", "", "UUID of the batch; the same one again continues its upload (default: a new one)")
	f.StringVar(&b.name, "name", "", "name for people")
	f.StringVar(&b.template, "template", "", "file with what all items have in common, as JSON; vars of an item replace {{name}}")
	f.IntVar(&b.stopAfter, "stop-after", 0, "end the rest of a group once so many of it have succeeded")
	f.IntVar(&b.passed, "min-passed", 0, "the batch passes with so many jobs that succeed")
	f.Float64Var(&b.ratio, "min-passed-ratio", 0, "the batch passes with this part of all lines, above 0 up to 1")
	f.IntVar(&b.groups, "min-groups", 0, "the batch passes with so many groups that reach --stop-after")
	f.StringVar(&b.callback, "callback", "", "https address that is told of the end")
}

// settings are those of the file's first line, if it has some, with the flags
// over them.
func (b *batchFlags) settings(head map[string]any) (map[string]any, error) {
	all := map[string]any{}
	maps.Copy(all, head)
	set := func(name string, value any, given bool) {
		if given {
			all[name] = value
		}
	}
	set("id", client.NewBatch(), all["id"] == nil)
	set("id", b.id, b.id != "")
	set("name", b.name, b.name != "")
	set("stop_after", map[string]any{"passed": b.stopAfter}, b.stopAfter != 0)
	success := map[string]any{}
	for name, value := range map[string]float64{"min_passed": float64(b.passed), "min_passed_ratio": b.ratio, "min_groups": float64(b.groups)} {
		if value != 0 {
			success[name] = value
		}
	}
	set("success", success, len(success) > 0)
	set("callback", map[string]any{"url": b.callback}, b.callback != "")
	if b.template != "" {
		text, err := os.ReadFile(b.template)
		if err != nil {
			return nil, fmt.Errorf("read template: %w", err)
		}
		if !json.Valid(text) {
			return nil, problems{"--template " + b.template + ": is not JSON"}
		}
		all["template"] = json.RawMessage(text)
	}
	return all, nil
}

func (a *app) batchSubmitCmd() *cobra.Command {
	var flags batchFlags
	cmd := &cobra.Command{
		Use:   "submit FILE.jsonl",
		Short: "Hand over a batch of up to a million items and return",
		Long: `Hand over a batch of up to a million items and return. A line is an item: a job
as the HTTP API takes it, with a key that no other line has. A first line
{"batch": {…}} has settings; flags go over them. Lines that are refused end as
rejected among the results. When the connection breaks the upload is sent again
under the same id, and goes on where it was.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			file, err := a.batchInput(args[0])
			if err != nil {
				return err
			}
			defer file.close()
			b, err := a.uploadBatch(cmd.Context(), c, file, &flags)
			if err != nil {
				return err
			}
			return a.show(b, func(w io.Writer) { fmt.Fprintln(w, b.ID) })
		},
	}
	flags.flags(cmd.Flags())
	return cmd
}

// batchInput is a file that can be read again; standard input is copied.
type batchInput struct {
	path      string
	temporary bool
}

func (a *app) batchInput(path string) (*batchInput, error) {
	if path != "-" {
		return &batchInput{path: path}, nil
	}
	f, err := os.CreateTemp("", "sandlot-batch-*.jsonl")
	if err != nil {
		return nil, fmt.Errorf("keep standard input: %w", err)
	}
	in := &batchInput{path: f.Name(), temporary: true}
	_, err = io.Copy(f, a.stdin)
	if err = errors.Join(err, f.Close()); err != nil {
		in.close()
		return nil, fmt.Errorf("keep standard input: %w", err)
	}
	return in, nil
}

func (b *batchInput) close() {
	if b.temporary {
		_ = os.Remove(b.path) // in the directory of temporary files
	}
}

// open returns the settings of the first line, if that has some, and the items.
func (b *batchInput) open() (head map[string]any, items io.Reader, close func() error, err error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open batch: %w", err)
	}
	in := bufio.NewReaderSize(f, 1<<20)
	first, err := in.ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, nil, errors.Join(fmt.Errorf("read batch: %w", err), f.Close())
	}
	var line struct {
		Batch map[string]any `json:"batch"`
	}
	if json.Unmarshal(first, &line) == nil && line.Batch != nil {
		return line.Batch, in, f.Close, nil
	}
	return nil, io.MultiReader(bytes.NewReader(first), in), f.Close, nil
}

// uploadPatience is how long an upload that breaks is sent again without
// getting any further.
const uploadPatience = 2 * time.Minute

// uploadBatch sends the file, again when the connection breaks.
func (a *app) uploadBatch(ctx context.Context, c *client.Client, file *batchInput, flags *batchFlags) (api.Batch, error) {
	head, _, done, err := file.open()
	if err != nil {
		return api.Batch{}, err
	}
	settings, err := flags.settings(head)
	if err = errors.Join(err, done()); err != nil {
		return api.Batch{}, err
	}
	id := fmt.Sprint(settings["id"])
	lines, since := -1, time.Now()
	for {
		b, err := sendBatch(ctx, c, file, settings)
		if err == nil || !worthSending(err) || ctx.Err() != nil {
			return b, err
		}
		if now, known := c.Batch(ctx, id); known == nil && now.BatchProgress != nil && now.Lines > lines {
			lines, since = now.Lines, time.Now()
		}
		if time.Since(since) > uploadPatience {
			return b, fmt.Errorf("batch %s: %w", id, err)
		}
		fmt.Fprintf(a.stderr, "sandlot: %s; sending batch %s again\n", explainError(err), id)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return b, context.Cause(ctx)
		}
	}
}

// worthSending reports whether an upload may succeed when it is sent again.
func worthSending(err error) bool {
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p.Status == 429 || p.Status == 502 || p.Status == 503 || p.Status == 504
	}
	_, away := errors.AsType[*client.Unreachable](err)
	return away
}

func sendBatch(ctx context.Context, c *client.Client, file *batchInput, settings map[string]any) (api.Batch, error) {
	_, items, done, err := file.open()
	if err != nil {
		return api.Batch{}, err
	}
	head, err := json.Marshal(map[string]any{"batch": settings})
	if err != nil {
		return api.Batch{}, errors.Join(err, done())
	}
	b, err := c.UploadBatch(ctx, io.MultiReader(bytes.NewReader(append(head, '\n')), items), -1)
	return b, errors.Join(err, done())
}

func (a *app) batchListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List batches, newest first", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			list, err := c.Batches(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				rows := [][]string{{"ID", "STATE", "JOBS", "ENDED", "SUCCEEDED", "REJECTED", "OUTCOME", "AGE", "NAME"}}
				for _, b := range list.Batches {
					rows = append(rows, []string{
						b.ID, string(b.State), fmt.Sprint(b.Jobs), fmt.Sprint(b.Final), fmt.Sprint(b.States[job.Succeeded]), fmt.Sprint(b.Rejected),
						dash(b.Outcome), age(b.CreatedAt, time.Now()), dash(b.Name),
					})
				}
				table(w, rows)
			})
		},
	}
}

// showBatch prints a batch for a person.
func showBatch(w io.Writer, b api.Batch) {
	states := make([]string, 0, len(b.States))
	for _, s := range job.States() {
		if n := b.States[s]; n > 0 {
			states = append(states, fmt.Sprintf("%d %s", n, s))
		}
	}
	if b.BatchProgress == nil {
		fmt.Fprintf(w, "%s  %d of %d ended: %s\n", b.ID, b.Final, b.Jobs, strings.Join(states, ", "))
		return
	}
	rejected := ""
	if b.Rejected > 0 {
		rejected = fmt.Sprintf(", %d lines rejected", b.Rejected)
	}
	fmt.Fprintf(w, "%s  %s  %d of %d ended: %s%s\n", b.ID, b.State, b.Final, b.Jobs, strings.Join(states, ", "), rejected)
	if b.Outcome != "" {
		fmt.Fprintf(w, "outcome: %s (%s)\n", b.Outcome, b.OutcomeReason)
	}
	for _, f := range b.Failures {
		fmt.Fprintf(w, "  %s  %s  %s %s %s\n", f.Key, f.ID, f.State, f.Blame, f.Reason)
	}
	if b.Called != nil && b.Called.Error != "" {
		fmt.Fprintf(w, "callback: failed %d times, last because %s\n", b.Called.Attempts, b.Called.Error)
	}
}

// batchDo is a command that answers with a batch.
func (a *app) batchDo(use, short string, do func(context.Context, *client.Client, string) (api.Batch, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			b, err := do(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return a.show(b, func(w io.Writer) { showBatch(w, b) })
		},
	}
}

func (a *app) batchGetCmd() *cobra.Command {
	return a.batchDo("get BATCH", "Show how far a batch is", func(ctx context.Context, c *client.Client, id string) (api.Batch, error) {
		return c.Batch(ctx, id)
	})
}

func (a *app) batchCancelCmd() *cobra.Command {
	return a.batchDo("cancel BATCH", "End a batch before its time", func(ctx context.Context, c *client.Client, id string) (api.Batch, error) {
		return c.CancelBatch(ctx, id)
	})
}

func (a *app) batchRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm BATCH…", Short: "Remove batches that have ended, with their results", Args: someArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			return a.eachJob(args, func(id string) error { return c.RemoveBatch(cmd.Context(), id) })
		},
	}
}

func (a *app) batchWatchCmd() *cobra.Command {
	return &cobra.Command{
		Use: "watch BATCH", Short: "Follow a batch to its end",
		Long: `Follow a batch to its end. The command exits with 1 if the batch was canceled,
or if it has criteria of success and did not meet them.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			last := time.Time{}
			b, err := c.WatchBatch(cmd.Context(), args[0], func(b api.Batch) error {
				if a.output == "json" {
					return json.NewEncoder(a.stdout).Encode(b)
				}
				if b.State.Final() || time.Since(last) >= time.Second {
					last = time.Now()
					showBatch(a.stdout, b)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if b.BatchProgress != nil && (b.State == job.BatchCanceled || b.Outcome == job.OutcomeFailed) {
				return exitError{exitProblem}
			}
			return nil
		},
	}
}

func (a *app) batchResultsCmd() *cobra.Command {
	var out, after string
	var follow, resume bool
	cmd := &cobra.Command{
		Use: "results BATCH", Short: "Download the results of a batch, a line of JSON each",
		Long: `Download the results of a batch, a line of JSON each: those that there are, or
with --follow all of them as they come. A download into a file that broke off is
continued by --resume.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if resume && (out == "" || after != "") {
				return usageError{cmd, errors.New("--resume continues the file of --out, and needs no --after")}
			}
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			target, after, err := a.resultTarget(out, after, resume)
			if err != nil {
				return err
			}
			lines := bufio.NewWriterSize(target, 64<<10)
			err = c.BatchResults(cmd.Context(), args[0], client.ResultOptions{Follow: follow, After: after}, func(r api.BatchResult) error {
				if err := writeResult(lines, r); err != nil {
					return err
				}
				if follow {
					return lines.Flush()
				}
				return nil
			})
			err = errors.Join(err, lines.Flush())
			if out != "" {
				err = errors.Join(err, target.Close())
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "out", "o", "", "file for the results (default: standard output)")
	f.BoolVarP(&follow, "follow", "f", false, "stay until the batch has ended")
	f.StringVar(&after, "after", "", "only results after the one with this cursor")
	f.BoolVar(&resume, "resume", false, "go on after the last whole line of --out")
	return cmd
}

func writeResult(w io.Writer, r api.BatchResult) error {
	var line any = r
	if r.State == api.Rejected {
		line = struct {
			api.LineAnswer
			Cursor string `json:"cursor,omitempty"`
		}{api.LineAnswer{Line: r.Line, Key: r.Key, State: r.State, Error: r.Error}, r.Cursor}
	}
	data, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encode result of %q: %w", r.Key, err)
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

type writeCloser interface {
	io.Writer
	io.Closer
}

// resultTarget opens where the results go, and says after which cursor they go
// on there.
func (a *app) resultTarget(out, after string, resume bool) (writeCloser, string, error) {
	if out == "" {
		return struct {
			io.Writer
			io.Closer
		}{a.stdout, io.NopCloser(nil)}, after, nil
	}
	if !resume {
		f, err := os.Create(out)
		if err != nil {
			return nil, "", fmt.Errorf("create results: %w", err)
		}
		return f, after, nil
	}
	f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, "", fmt.Errorf("continue results: %w", err)
	}
	whole, cursor, err := lastResult(f)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("continue results: %w", err), f.Close())
	}
	return f, cursor, nil
}

// lastResult is how long the whole lines of results are, and the cursor of the
// last of them.
func lastResult(r io.Reader) (size int64, cursor string, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return size, cursor, nil
		}
		if err != nil {
			return 0, "", err
		}
		var head struct {
			Cursor string `json:"cursor"`
		}
		if json.Unmarshal(line, &head) != nil || head.Cursor == "" {
			return size, cursor, nil // not one of ours: it is written anew from here
		}
		size, cursor = size+int64(len(line)), head.Cursor
	}
}

func (a *app) batchSecretCmd() *cobra.Command {
	var rotate bool
	cmd := &cobra.Command{
		Use: "secret", Short: "Show the secret that signs your callbacks", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			s, err := c.CallbackSecret(cmd.Context(), rotate)
			if err != nil {
				return err
			}
			return a.show(s, func(w io.Writer) { fmt.Fprintln(w, s.Secret) })
		},
	}
	cmd.Flags().BoolVar(&rotate, "rotate", false, "replace it; for a day the former one signs as well")
	return cmd
}

// batchCommands are those for batches that are objects.
func (a *app) batchCommands() []*cobra.Command {
	return []*cobra.Command{
		a.batchSubmitCmd(), a.batchListCmd(), a.batchGetCmd(), a.batchWatchCmd(), a.batchResultsCmd(), a.batchCancelCmd(), a.batchRemoveCmd(), a.batchSecretCmd(),
	}
}
