package client

import (
	"bufio"
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

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// LogOptions say which part of a log is asked for.
type LogOptions struct {
	// Follow stays until the job has ended; else what is there is told.
	Follow bool
	// After is the cursor of the last chunk already known.
	After string
}

// Logs calls each with the output of a job while it runs, from its start. It
// returns when the job has ended and all was told. While following it
// survives restarts of the server for as long as ctx lasts.
func (c *Client) Logs(ctx context.Context, id string, o LogOptions, each func(api.LogChunk) error) error {
	after := o.After
	fresh := onlyNew(each)
	for {
		ended, err := c.logs(ctx, id, o.Follow, &after, fresh)
		var broken *brokenStream
		if ended || !o.Follow || err != nil && !errors.As(err, &broken) {
			return err
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// onlyNew passes on what was not told before: after a break of the connection
// the server may repeat some.
func onlyNew(each func(api.LogChunk) error) func(api.LogChunk) error {
	type part struct {
		attempt      int
		step, stream string
	}
	next := map[part]int64{}
	return func(chunk api.LogChunk) error {
		key := part{chunk.Attempt, chunk.Step, chunk.Stream}
		data := chunk.Bytes()
		end := chunk.Offset + int64(len(data))
		if end <= next[key] {
			return nil
		}
		if known := next[key] - chunk.Offset; known > 0 {
			chunk.Offset, chunk.Text, chunk.Base64 = next[key], "", data[known:]
		}
		next[key] = end
		return each(chunk)
	}
}

// FollowLogs is Logs that stays until the job has ended.
func (c *Client) FollowLogs(ctx context.Context, id string, each func(api.LogChunk) error) error {
	return c.Logs(ctx, id, LogOptions{Follow: true}, each)
}

// logs reads one stream of events; ended says that the server told its end.
func (c *Client) logs(ctx context.Context, id string, follow bool, after *string, each func(api.LogChunk) error) (ended bool, err error) {
	r := request{
		path: path("jobs", id, "logs"), query: url.Values{"follow": {strconv.FormatBool(follow)}},
		header: http.Header{"Accept": {"text/event-stream"}},
	}
	if *after != "" {
		r.header.Set("Last-Event-ID", *after)
	}
	if follow {
		r.patience = forever
	}
	body, err := c.open(ctx, r)
	if err != nil {
		return false, err
	}
	defer body.Close()
	err = readEvents(body, func(e event) error {
		switch e.name {
		case "end":
			ended = true
		case "chunk":
			var chunk api.LogChunk
			if err := json.Unmarshal([]byte(e.data), &chunk); err != nil {
				return fmt.Errorf("chunk of the log: %w", err)
			}
			chunk.Cursor, *after = e.id, e.id
			return each(chunk)
		}
		return nil
	})
	return ended, err
}

// event is one server-sent event.
type event struct{ id, name, data string }

// readEvents calls each with every complete event.
func readEvents(body io.Reader, each func(event) error) error {
	in := bufio.NewReaderSize(body, 1<<16)
	var e event
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &brokenStream{err}
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			if e.name != "" || e.data != "" {
				if err := each(e); err != nil {
					return err
				}
			}
			e = event{}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data += value
		}
	}
}
