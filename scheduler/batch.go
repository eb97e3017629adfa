package scheduler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// A window is what of a batch is in memory at once.
const (
	windowLines = 500
	windowBytes = 4 << 20
	// windowCost is what a window takes of Config.Buffer: its bytes, and one
	// last line of full size.
	windowCost = api.MaxBody
)

// line is one line of a batch on its way.
type line struct {
	number int
	rec    *job.Record
	answer api.LineAnswer
	// settled tells the caps that the line is counted, or not to be.
	settled func()
}

// handleBatchSubmit accepts a stream of lines, window by window, and answers
// each line in order. A line that is refused is answered so, and the rest
// goes on.
func (s *Scheduler) handleBatchSubmit(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("batch")
	if id == "" {
		id = newBatch()
	}
	if why := api.BadBatch(id); why != "" {
		return invalid("batch", clean(id), "%s", why)
	}
	release, err := s.reserve(r.Context(), windowCost)
	if err != nil {
		return err
	}
	defer release()
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	w.Header().Set("Content-Type", typeNDJSON)
	w.Header().Set("Sandlot-Batch", id)

	in := bufio.NewReaderSize(&patientReader{body: r.Body, control: control, each: s.BodyTime}, 64<<10)
	ctx := telemetry.Extract(r.Context(), r.Header)
	for number := 1; ; {
		lines, next, err := s.window(withDigests(ctx), in, id, number)
		if len(lines) > 0 {
			s.acceptLines(ctx, lines)
			s.countRefused(ctx, lines)
			if err := writeLines(w, control, lines); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			if number == 1 && len(lines) == 0 {
				w.WriteHeader(http.StatusOK)
			}
			return nil
		}
		if err != nil {
			return api.NewProblem(http.StatusBadRequest, api.TypeSyntax, "the body did not arrive whole: %v", err)
		}
		number = next
	}
}

// window reads lines until there are enough, or until more would have to be
// waited for.
func (s *Scheduler) window(ctx context.Context, in *bufio.Reader, batch string, number int) (lines []line, next int, err error) {
	for size := 0; len(lines) < windowLines && size < windowBytes; number++ {
		raw, whole, err := readLine(in)
		if len(raw) > 0 || !whole {
			lines = append(lines, s.draftLine(ctx, raw, whole, batch, number))
			size += len(raw)
		}
		if err != nil {
			return lines, number + 1, err
		}
		if in.Buffered() == 0 && len(lines) > 0 {
			return lines, number + 1, nil
		}
	}
	return lines, number, nil
}

// readLine reads one line without its end; whole is false for one that is too
// long, of which only the beginning is kept.
func readLine(in *bufio.Reader) (raw []byte, whole bool, err error) {
	whole = true
	for {
		piece, err := in.ReadSlice('\n')
		if len(raw)+len(piece) > api.MaxBody+2 {
			whole = false
		}
		if whole {
			raw = append(raw, piece...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if !whole {
			raw = raw[:min(len(raw), 4096)]
		}
		return bytes.TrimSpace(raw), whole, err
	}
}

// draftLine checks one line.
func (s *Scheduler) draftLine(ctx context.Context, raw []byte, whole bool, batch string, number int) line {
	l := line{number: number, answer: api.LineAnswer{Line: number}}
	problem := api.TooLarge()
	var in api.Submit
	if whole {
		in, problem = api.DecodeSubmit(raw)
	}
	l.answer.Key = in.Key
	if problem == nil {
		problem = singleOnly(in, true)
	}
	if problem == nil {
		rec, settled, err := s.draftItem(ctx, in, batch)
		if err == nil {
			l.rec, l.settled = &rec, settled
			return l
		}
		problem = s.lineProblem(ctx, err)
	}
	if l.answer.Key == "" {
		l.answer.Key = keyIn(raw)
	}
	return l.refuse(problem)
}

// refuse makes the problem the answer to the line.
func (l line) refuse(p *api.Problem) line {
	l.rec, l.answer.State, l.answer.Error = nil, api.Rejected, p
	return l
}

// draftItem is the record of an item that may come in, its spec stored.
func (s *Scheduler) draftItem(ctx context.Context, in api.Submit, batch string) (rec job.Record, settled func(), err error) {
	ctx, recording := s.Telemetry.Job(ctx)
	received := time.Now().UTC()
	ctx, stage := telemetry.StartAt(ctx, telemetry.Submit, received)
	rec, err = s.draft(ctx, in, Origin{Batch: batch, Received: received})
	if err == nil {
		settled, err = s.admit(ctx, rec)
	}
	if err == nil {
		if err = s.storeSpec(ctx, &rec); err != nil {
			settled()
		}
	}
	rec.Timings.Submit = time.Now().UTC()
	stage.EndAt(rec.Timings.Submit, err)
	rec.Spans = recording.Spans()
	return rec, settled, err
}

func (s *Scheduler) lineProblem(ctx context.Context, err error) *api.Problem {
	r := (&http.Request{}).WithContext(ctx)
	p := s.problemOf(r, err)
	if p.Type == api.TypeInternal {
		s.log.ErrorContext(ctx, "line of a batch failed", "error", err)
	}
	return p
}

// fullPatience is how long a batch waits for a queue that is full before its
// lines are refused: the client is held back meanwhile, not turned away.
const fullPatience = 30 * time.Second

// acceptLines accepts the lines that were not refused in one go, and tries
// those again that found the queue full.
func (s *Scheduler) acceptLines(ctx context.Context, lines []line) {
	started := time.Now()
	defer func() {
		for _, l := range lines {
			if l.settled != nil {
				l.settled()
			}
		}
	}()
	for {
		var recs []job.Record
		var where []int
		for i, l := range lines {
			if l.rec != nil {
				recs, where = append(recs, *l.rec), append(where, i)
			}
		}
		if len(recs) == 0 {
			return
		}
		var again time.Duration
		// Not given up half-way, as with a single job.
		for i, a := range s.Queue.AcceptMany(context.WithoutCancel(ctx), recs) {
			l := &lines[where[i]]
			var full *queue.FullError
			switch {
			case a.Err == nil:
				s.noteAccepted(a.Record, a.Created)
				l.rec, l.answer.ID, l.answer.State = nil, a.Record.ID, a.Record.State
			case errors.As(a.Err, &full) && time.Since(started) < fullPatience && ctx.Err() == nil && !s.isStopping():
				again = max(again, full.RetryAfter, 100*time.Millisecond)
			default:
				*l = l.refuse(s.lineProblem(ctx, a.Err))
			}
		}
		if again > 0 {
			s.pause(ctx, again)
		}
	}
}

// pause waits, unless ctx ends or the scheduler stops.
func (s *Scheduler) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.stopping:
	}
}

func (s *Scheduler) countRefused(ctx context.Context, lines []line) {
	for _, l := range lines {
		if l.answer.Error != nil {
			s.metrics.refuse(ctx, l.answer.Error)
		}
	}
}

func writeLines(w http.ResponseWriter, control *http.ResponseController, lines []line) error {
	var out bytes.Buffer
	for _, l := range lines {
		data, err := encode(l.answer)
		if err != nil {
			return err
		}
		out.Write(data)
	}
	return writePiece(w, control, out.Bytes())
}

// writePiece writes and flushes a piece of a stream, which the client must
// take in time.
func writePiece(w http.ResponseWriter, control *http.ResponseController, data []byte) error {
	soon(w)
	if _, err := w.Write(data); err != nil {
		return err
	}
	return control.Flush()
}

// keyPattern finds the key of a line that is no JSON, so that its refusal can
// be matched.
var keyPattern = regexp.MustCompile(`"key"\s*:\s*("(?:[^"\\]|\\.){0,256}")`)

func keyIn(raw []byte) string {
	var key string
	if m := keyPattern.FindSubmatch(raw); m != nil {
		_ = json.Unmarshal(m[1], &key)
	}
	return key
}

// handleResults streams the jobs of a batch that have ended, in the order in
// which they did, each once. Following, it ends with the last job of those
// that are known.
func (s *Scheduler) handleResults(w http.ResponseWriter, r *http.Request) error {
	follow, err := flagOf(r, "follow")
	if err != nil {
		return err
	}
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	switch v, err := s.foldOf(r.Context(), r.PathValue("id")); {
	case err == nil && v.State == job.BatchUploading:
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "the batch is still being uploaded; it has no results yet")
	case err == nil:
		b, err := s.Queue.Batch(r.Context(), v.Tenant, v.ID) // with its segments
		if err != nil {
			return err
		}
		return s.streamResults(w, r, b, follow)
	case !errors.Is(err, job.ErrNotFound):
		return err
	}
	id, place := r.PathValue("id"), s.placeOf(r.URL.Query().Get("after"))
	if _, ok := s.index.batchCounts(tenantOf(r.Context()), id); !ok {
		return job.ErrNotFound
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", typeNDJSON)
	w.WriteHeader(http.StatusOK)
	alive := time.NewTicker(heartbeat)
	defer alive.Stop()
	for {
		jobs, next, all, changed := s.index.results(tenantOf(r.Context()), id, place, windowLines)
		if err := s.writeResults(w, r, control, jobs); err != nil {
			return err
		}
		place = next
		switch {
		case len(jobs) > 0:
			continue
		case all || !follow:
			return nil
		}
		select {
		case <-changed:
		case <-alive.C:
			if err := writePiece(w, control, []byte("\n")); err != nil {
				return err
			}
		case <-r.Context().Done():
			return context.Cause(r.Context())
		case <-s.stopping:
			return errStopping // cut, so that the client asks again
		}
	}
}

// heartbeat is how often a silent stream says that it lives.
const heartbeat = 15 * time.Second

// writeResults writes the results of jobs, some at a time.
func (s *Scheduler) writeResults(w http.ResponseWriter, r *http.Request, control *http.ResponseController, jobs []ended) error {
	var out bytes.Buffer
	for i, one := range jobs {
		rec, err := s.record(r.Context(), one.id)
		if err != nil && !errors.Is(err, job.ErrNotFound) {
			return err
		}
		if err == nil { // else removed in the meantime
			v, err := s.answer(r.Context(), rec)
			if err != nil {
				return err
			}
			data, err := encode(api.BatchResult{Job: v, Cursor: s.index.boot + "." + strconv.Itoa(one.next)})
			if err != nil {
				return err
			}
			out.Write(data)
		}
		if out.Len() > 0 && (out.Len() > 64<<10 || i == len(jobs)-1) {
			if err := writePiece(w, control, out.Bytes()); err != nil {
				return err
			}
			out.Reset()
		}
	}
	return nil
}

// placeOf reads a cursor of results. One of an earlier life starts over, and
// the client knows what it has seen.
func (s *Scheduler) placeOf(cursor string) int {
	boot, place, _ := strings.Cut(cursor, ".")
	n, err := strconv.Atoi(place)
	if err != nil || boot != s.index.boot || n < 0 {
		return 0
	}
	return n
}

func flagOf(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, invalid(name, clean(text), "write true or false")
	}
	return b, nil
}
