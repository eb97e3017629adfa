package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// NewBatch makes an id for a batch. The same id again continues the batch.
func NewBatch() string { return uuid.NewString() }

// A window of lines is one request.
const (
	windowLines = 500
	windowBytes = 4 << 20
)

// SubmitMany submits every line of an NDJSON stream as an item of a batch and
// calls each with what became of it, in order. The lines go as they are. One
// window of lines is in memory at a time; what of it was not answered, or
// found the queue full, is sent again, which is safe: an item is identified
// by batch and key. An error of each ends the submit.
func (c *Client) SubmitMany(ctx context.Context, batch string, lines io.Reader, each func(api.LineAnswer) error) error {
	in := bufio.NewReaderSize(lines, 1<<16)
	for number, done := 1, false; !done; {
		w := window{first: number}
		for len(w.starts) < windowLines && w.data.Len() < windowBytes && !done {
			line, err := in.ReadBytes('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read line %d: %w", number, err)
			}
			done = err != nil
			w.add(bytes.TrimSpace(line))
			number++
		}
		if err := c.submitWindow(ctx, batch, w, each); err != nil {
			return err
		}
	}
	return nil
}

// window is some lines of a batch.
type window struct {
	// first is the number of the first line.
	first int
	data  bytes.Buffer
	// starts is where each line begins, last the last that is not blank,
	// counted from 1.
	starts []int
	last   int
}

func (w *window) add(line []byte) {
	w.starts = append(w.starts, w.data.Len())
	w.data.Write(line)
	w.data.WriteByte('\n')
	if len(line) > 0 {
		w.last = len(w.starts)
	}
}

// submitWindow submits a window until all of it is answered.
func (c *Client) submitWindow(ctx context.Context, batch string, w window, each func(api.LineAnswer) error) error {
	// told counts the lines that are answered; stuck is since when none was.
	told, stuck := 0, time.Now()
	for told < w.last {
		before := told
		err := c.submitLines(ctx, batch, w.data.Bytes()[w.starts[told]:], func(a api.LineAnswer) error {
			a.Line += before
			told = a.Line
			a.Line += w.first - 1
			return each(a)
		})
		if told > before {
			stuck = time.Now()
		}
		var full *queueFull
		var broken *brokenStream
		after := 200 * time.Millisecond
		switch {
		case errors.As(err, &full):
			after = max(after, full.after)
		case err != nil && !errors.As(err, &broken):
			return err
		case told >= w.last:
		case c.patience < 0 || time.Since(stuck) > c.patience+waitStep:
			return fmt.Errorf("batch %s: the server answered no line after %d: %w", batch, w.first+told-1, errOrEOF(err))
		}
		if told < w.last {
			if err := sleep(ctx, after); err != nil {
				return err
			}
		}
	}
	return nil
}

// submitLines submits lines once. It ends with queueFull at the first line
// that is worth sending again.
func (c *Client) submitLines(ctx context.Context, batch string, lines []byte, each func(api.LineAnswer) error) error {
	body, err := c.open(ctx, request{
		method: http.MethodPost, path: path("jobs"), query: url.Values{"batch": {batch}},
		body: lines, contentType: "application/x-ndjson",
	})
	if err != nil {
		return err
	}
	defer body.Close()
	return readLines(body, func(raw []byte) error {
		var a api.LineAnswer
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("answer %q: %w", raw[:min(len(raw), 100)], err)
		}
		if a.Error != nil && (a.Error.Type == api.TypeFull || a.Error.Type == api.TypeUnavailable) {
			return &queueFull{a.Error.RetryAfter.Duration()}
		}
		return each(a)
	})
}

// queueFull says that a line was turned away for now.
type queueFull struct{ after time.Duration }

func (q *queueFull) Error() string { return "queue is full" }

// Batch counts the jobs of a batch.
func (c *Client) Batch(ctx context.Context, id string) (api.Batch, error) {
	var b api.Batch
	return b, c.call(ctx, request{path: path("batches", id)}, &b)
}

// UploadBatch stores a batch: lines are NDJSON, settings first if there are
// any, {"batch": {…}}. It is sent once; repeat it under the same id when it
// was cut off. from is after which line the items go on, -1 for all of them.
func (c *Client) UploadBatch(ctx context.Context, lines io.Reader, from int) (api.Batch, error) {
	var b api.Batch
	r := request{method: http.MethodPost, path: path("batches"), stream: lines, contentType: "application/x-ndjson", once: true}
	if from >= 0 {
		r.query = url.Values{"from": {strconv.Itoa(from)}}
	}
	return b, c.call(ctx, r, &b)
}

// Batches lists the batches that were uploaded, newest first.
func (c *Client) Batches(ctx context.Context) (api.Batches, error) {
	var b api.Batches
	return b, c.call(ctx, request{path: path("batches")}, &b)
}

// CancelBatch asks for the end of a batch and answers with it as it stands
// then.
func (c *Client) CancelBatch(ctx context.Context, id string) (api.Batch, error) {
	var b api.Batch
	return b, c.call(ctx, request{method: http.MethodPost, path: path("batches", id, "cancel")}, &b)
}

// RemoveBatch deletes a batch that has ended, with its results.
func (c *Client) RemoveBatch(ctx context.Context, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("batches", id)}, nil)
}

// WatchBatch calls each with the counts of a batch whenever they have changed,
// and returns the last ones. It survives restarts of the server for as long as
// ctx lasts.
func (c *Client) WatchBatch(ctx context.Context, id string, each func(api.Batch) error) (api.Batch, error) {
	var last api.Batch
	for {
		body, err := c.open(ctx, request{path: path("batches", id, "events"), patience: forever})
		if err != nil {
			return last, err
		}
		ended := false
		err = readEvents(body, func(e event) error {
			if e.name != "progress" && e.name != "end" {
				return nil
			}
			ended = e.name == "end"
			var b api.Batch
			if err := json.Unmarshal([]byte(e.data), &b); err != nil {
				return fmt.Errorf("event %q: %w", e.data[:min(len(e.data), 100)], err)
			}
			if b.ID == "" {
				return nil // it was removed
			}
			last = b
			return each(b)
		})
		body.Close()
		var broken *brokenStream
		if ended && err == nil || err != nil && !errors.As(err, &broken) {
			return last, err
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return last, err
		}
	}
}

// CallbackSecret is what callbacks are signed with; rotate replaces it first.
func (c *Client) CallbackSecret(ctx context.Context, rotate bool) (api.CallbackSecret, error) {
	var s api.CallbackSecret
	r := request{path: path("callbacks", "secret")}
	if rotate {
		r.method, r.once = http.MethodPost, true
	}
	return s, c.call(ctx, r, &s)
}

// ResultOptions say which results of a batch are asked for.
type ResultOptions struct {
	// Follow waits for jobs that have not ended yet; the stream ends with the
	// last one of them.
	Follow bool
	// After is the cursor of the last result already known.
	After string
	// More, if set, is asked when all known jobs have ended: while it says
	// true, more items may yet be submitted and the stream goes on. It also
	// makes a batch that is not known yet worth waiting for.
	More func() bool
}

// BatchResults calls each once for every job of the batch that has ended, in
// the order in which they ended. While following it survives restarts of the
// server for as long as ctx lasts.
func (c *Client) BatchResults(ctx context.Context, id string, o ResultOptions, each func(api.BatchResult) error) error {
	seen := map[string]bool{}
	after := o.After
	for {
		more := o.More != nil && o.More()
		q := url.Values{"follow": {strconv.FormatBool(o.Follow)}}
		if after != "" {
			q.Set("after", after)
		}
		r := request{path: path("batches", id, "results"), query: q}
		if o.Follow {
			r.patience = forever
		}
		err := c.batchResults(ctx, r, func(result api.BatchResult) error {
			if result.Cursor != "" {
				after = result.Cursor
			}
			if strings.HasPrefix(result.Cursor, "s") || strings.HasPrefix(result.Cursor, "l") {
				return each(result) // such a cursor means the same to every server
			}
			if seen[result.ID] {
				return nil
			}
			seen[result.ID] = true
			return each(result)
		})
		var broken *brokenStream
		var p *api.Problem
		switch {
		case errors.As(err, &broken) && o.Follow:
		case errors.As(err, &p) && p.Status == http.StatusNotFound && more:
		case err != nil || !more:
			return err
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func (c *Client) batchResults(ctx context.Context, r request, each func(api.BatchResult) error) error {
	body, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer body.Close()
	return readLines(body, func(raw []byte) error {
		var result api.BatchResult
		if err := json.Unmarshal(raw, &result); err != nil {
			return fmt.Errorf("result %q: %w", raw[:min(len(raw), 100)], err)
		}
		return each(result)
	})
}

// brokenStream says that a stream ended before its end.
type brokenStream struct{ err error }

func (b *brokenStream) Error() string { return "stream broke: " + b.err.Error() }
func (b *brokenStream) Unwrap() error { return b.err }

func errOrEOF(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLines calls each with every line; a line cut short is not told. Blank
// lines, which keep a quiet connection alive, are skipped.
func readLines(body io.Reader, each func([]byte) error) error {
	in := bufio.NewReaderSize(body, 1<<16)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return &brokenStream{err}
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if err := each(line); err != nil {
			return err
		}
	}
}
