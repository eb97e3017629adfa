package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// handleLogs streams the output of a job as server-sent events: from the
// start or after Last-Event-ID, live while it runs, and exactly what its
// programs wrote by the end, since what the live log has lost is taken from
// the result.
func (s *Scheduler) handleLogs(w http.ResponseWriter, r *http.Request) error {
	follow, err := flagOf(r, "follow")
	if err != nil {
		return err
	}
	after, err := eventOf(r)
	if err != nil {
		return err
	}
	changes, stop := s.index.watch(r.PathValue("id"))
	defer stop()
	rec, err := s.record(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", typeEvents)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	l := &logStream{s: s, w: w, control: http.NewResponseController(w), after: after, final: rec.State.Final(), told: map[logPart]*logPlace{}}
	if err := l.comment(); err != nil {
		return err
	}

	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	done := make(chan struct{})
	if rec.State.Final() || !follow {
		close(done)
	} else {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.untilFinal(ctx, rec, changes, done, cancel)
		}()
		defer func() { cancel(nil); <-ended }()
	}
	if err := l.live(ctx, rec.ID, done); err != nil {
		return err
	}
	if rec, err = s.record(r.Context(), rec.ID); err != nil {
		return err
	}
	if rec.State.Final() {
		if err := l.rest(r.Context(), rec); err != nil {
			return err
		}
	}
	return l.event("end", "", fmt.Sprintf(`{"state":%q}`, rec.State))
}

// untilFinal closes done when the job has ended.
func (s *Scheduler) untilFinal(ctx context.Context, rec job.Record, changes <-chan struct{}, done chan struct{}, stop context.CancelCauseFunc) {
	for {
		current, err := s.wait(ctx, rec, changes, s.MaxWait)
		switch {
		case err == nil && current.State.Final(), errors.Is(err, job.ErrNotFound):
			close(done)
			return
		case ctx.Err() != nil:
			return
		case err != nil:
			stop(err)
			return
		}
		select {
		case <-s.stopping:
			stop(errStopping)
			return
		default:
		}
	}
}

// eventOf reads Last-Event-ID, the sequence of a chunk.
func eventOf(r *http.Request) (uint64, error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("after")
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, invalid("Last-Event-ID", clean(text), "is not the id of an event of this log")
	}
	return n, nil
}

// logPart is one stream of one attempt.
type logPart struct {
	attempt      int
	step, stream string
}

// logPlace is how far a part has been told.
type logPlace struct {
	next int64
	// broken says that a chunk was lost: the rest comes from the result.
	broken bool
}

// logStream is one viewer of one log.
type logStream struct {
	s       *Scheduler
	w       http.ResponseWriter
	control *http.ResponseController
	// after is the last event that the viewer has; final whether the job had
	// ended when it came.
	after uint64
	final bool
	last  uint64
	told  map[logPart]*logPlace
}

// live tells the chunks that the queue keeps and those that come, in order
// and without gaps.
func (l *logStream) live(ctx context.Context, id string, done <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	chunks, failed := make(chan queue.LogChunk), make(chan error, 1)
	go func() {
		failed <- l.s.Queue.FollowLogs(ctx, id, 0, done, func(c queue.LogChunk) error {
			select {
			case chunks <- c:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	err, ended := l.passOn(chunks, failed)
	cancel(err)
	if !ended {
		<-failed
	}
	return err
}

// passOn tells chunks until the follower or the viewer ends.
func (l *logStream) passOn(chunks <-chan queue.LogChunk, failed <-chan error) (err error, ended bool) {
	alive := time.NewTicker(heartbeat)
	defer alive.Stop()
	for err == nil {
		select {
		case c := <-chunks:
			err = l.chunk(c)
		case <-alive.C:
			err = l.comment()
		case err = <-failed:
			return err, true
		}
	}
	return err, false
}

func (l *logStream) place(c logPart, first int64) *logPlace {
	p := l.told[c]
	if p == nil {
		// A log that has lost its beginning is told from there on, unless the
		// result is about to tell it whole.
		p = &logPlace{next: first, broken: first > 0 && l.final}
		if p.broken {
			p.next = 0
		}
		l.told[c] = p
	}
	return p
}

// chunk tells a chunk of the live log, unless a part before it is missing.
func (l *logStream) chunk(c queue.LogChunk) error {
	part := logPart{c.Attempt, c.Step, c.Stream}
	_, seen := l.told[part]
	p := l.place(part, c.Offset)
	end := c.Offset + int64(len(c.Data))
	if c.Offset > p.next {
		p.broken = true
	}
	if p.broken || end <= p.next {
		return nil
	}
	data := c.Data[p.next-c.Offset:]
	out := api.LogChunk{Attempt: c.Attempt, Step: c.Step, Stream: c.Stream, Offset: p.next, Time: c.At}
	if !seen {
		out.Dropped = p.next
	}
	p.next = end
	l.last = c.Seq
	if c.Seq <= l.after {
		return nil // the viewer has it
	}
	return l.tell(out, data)
}

// tell sends a chunk.
func (l *logStream) tell(c api.LogChunk, data []byte) error {
	if utf8.Valid(data) {
		c.Text = string(data)
	} else {
		c.Base64 = data
	}
	text, err := encode(c)
	if err != nil {
		return err
	}
	return l.event("chunk", strconv.FormatUint(l.last, 10), string(bytes.TrimSpace(text)))
}

func (l *logStream) event(name, id, data string) error {
	var out bytes.Buffer
	if id != "" {
		fmt.Fprintf(&out, "id: %s\n", id)
	}
	fmt.Fprintf(&out, "event: %s\ndata: %s\n\n", name, data)
	return writePiece(l.w, l.control, out.Bytes())
}

// comment keeps a quiet connection alive.
func (l *logStream) comment() error { return writePiece(l.w, l.control, []byte(":\n\n")) }

// rest tells what the live log had not, from the result.
func (l *logStream) rest(ctx context.Context, rec job.Record) error {
	if rec.Result == nil {
		return nil
	}
	for _, step := range rec.Result.Steps {
		for _, one := range []struct {
			stream string
			out    job.Output
		}{{"stdout", step.Stdout}, {"stderr", step.Stderr}} {
			p := l.place(logPart{rec.Attempt, step.Name, one.stream}, 0)
			if p.next >= one.out.Bytes {
				continue
			}
			c := api.LogChunk{Attempt: rec.Attempt, Step: step.Name, Stream: one.stream, Offset: p.next}
			if err := l.outputFrom(ctx, one.out, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// outputFrom tells an output from the chunk's offset on.
func (l *logStream) outputFrom(ctx context.Context, out job.Output, c api.LogChunk) error {
	r, err := l.s.output(ctx, out)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, c.Offset); err != nil {
		return nil // head and tail only are kept, and they are told
	}
	piece := make([]byte, 32<<10)
	for {
		n, err := io.ReadFull(r, piece)
		if n > 0 {
			if err := l.tell(c, piece[:n]); err != nil {
				return err
			}
			c.Offset += int64(n)
		}
		if err != nil {
			return nil
		}
	}
}
