package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// handler answers a request, or returns why it cannot; the error table says
// what the client sees then.
type handler func(w http.ResponseWriter, r *http.Request) error

// Media types of bodies.
const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	typeEvents = "text/event-stream"
	// typeForm is what curl says of any body that it is given with -d.
	typeForm  = "application/x-www-form-urlencoded"
	typeBytes = "application/octet-stream"
	typeTar   = "application/x-tar"
)

const (
	// writeTime is how long a client may leave a piece of an answer unread.
	writeTime = time.Minute
	// bodyCost is what one request with a body takes of Config.Buffer at most.
	bodyCost = api.MaxBody
)

func (s *Scheduler) handleSubmit(w http.ResponseWriter, r *http.Request) error {
	received := time.Now().UTC()
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("Content-Type") == "" || media == typeForm {
		media, err = typeJSON, nil
	}
	switch {
	case err == nil && (media == typeNDJSON || media == "application/jsonl" || media == "application/x-jsonlines"):
		return s.handleBatchSubmit(w, r)
	case err != nil || media != typeJSON:
		return api.NewProblem(http.StatusUnsupportedMediaType, api.TypeSyntax, "Content-Type is %q; send %s, or %s for many", clean(r.Header.Get("Content-Type")), typeJSON, typeNDJSON)
	}
	wait, err := s.waitOf(r)
	if err != nil {
		return err
	}
	body, release, err := s.body(w, r)
	if err != nil {
		return err
	}
	in, problem := api.DecodeSubmit(body)
	release()
	if problem == nil {
		problem = singleOnly(in, false)
	}
	if problem != nil {
		return problem
	}
	if err := keyOf(r, &in); err != nil {
		return err
	}
	rec, err := s.Submit(telemetry.Extract(r.Context(), r.Header), in, Origin{Received: received})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/jobs/"+rec.ID)
	return s.answerWithin(w, r, rec, wait)
}

func (s *Scheduler) handleGet(w http.ResponseWriter, r *http.Request) error {
	wait, err := s.waitOf(r)
	if err != nil {
		return err
	}
	changes, stop := s.index.watch(r.PathValue("id"))
	defer stop()
	rec, err := s.record(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if rec, err = s.wait(r.Context(), rec, changes, wait); err != nil {
		return err
	}
	return s.writeJob(w, r, http.StatusOK, rec)
}

// answerWithin answers with the job once it has ended, or as it stands when
// the wait is over.
func (s *Scheduler) answerWithin(w http.ResponseWriter, r *http.Request, rec job.Record, wait time.Duration) error {
	if wait > 0 && !rec.State.Final() {
		changes, stop := s.index.watch(rec.ID)
		defer stop()
		current, err := s.record(r.Context(), rec.ID)
		if err != nil {
			return err
		}
		if rec, err = s.wait(r.Context(), current, changes, wait); err != nil {
			return err
		}
	}
	return s.writeJob(w, r, statusOf(rec.State), rec)
}

func (s *Scheduler) writeJob(w http.ResponseWriter, r *http.Request, status int, rec job.Record) error {
	ctx, _ := s.Telemetry.Job(telemetry.WithTraceParent(r.Context(), rec.TraceParent))
	_, stage := telemetry.Start(ctx, telemetry.Answer)
	v, err := s.answer(ctx, rec)
	if err == nil {
		err = writeJSON(w, status, v)
	}
	if rec.State.Final() {
		stage.End(err)
	}
	return err
}

func (s *Scheduler) handleList(w http.ResponseWriter, r *http.Request) error {
	f, err := filterOf(r)
	if err != nil {
		return err
	}
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	f.tenant = tenantOf(r.Context())
	return writeJSON(w, http.StatusOK, s.index.list(f))
}

func (s *Scheduler) handleCancel(w http.ResponseWriter, r *http.Request) error {
	known, err := s.record(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if batch, index, item := job.Item(known.ID); item {
		if err := s.dropItem(r.Context(), batch, index); err != nil {
			return err
		}
		if known, err = s.record(r.Context(), known.ID); err != nil {
			return err
		}
		if known.State.Final() {
			return s.writeJob(w, r, http.StatusOK, known)
		}
	}
	rec, err := s.Queue.Cancel(r.Context(), tenantOf(r.Context()), r.PathValue("id"))
	if err != nil && !errors.Is(err, job.ErrStale) {
		return fmt.Errorf("cancel job %s: %w", r.PathValue("id"), err)
	}
	return s.writeJob(w, r, http.StatusOK, rec)
}

func (s *Scheduler) handleRemove(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.record(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if _, _, item := job.Item(rec.ID); item {
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "the job is an item of batch %s and goes with it; remove the batch", rec.Batch)
	}
	if err := s.Queue.Remove(r.Context(), rec.Tenant, rec.ID); err != nil {
		return fmt.Errorf("remove job %s: %w", rec.ID, err)
	}
	if rec.SpecRef != "" {
		if err := s.Queue.Delete(r.Context(), queue.Inputs, rec.SpecRef); err != nil {
			s.log.WarnContext(r.Context(), "input of a removed job is left behind", "job", rec.ID, "error", err)
		}
	}
	s.index.removed(rec.ID)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// problemOf is the one table of errors.
func (s *Scheduler) problemOf(r *http.Request, err error) *api.Problem {
	var p *api.Problem
	var full *queue.FullError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &tooLarge):
		return api.TooLarge()
	case errors.Is(err, job.ErrNotFound):
		return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "%s", notFoundText(r))
	case errors.Is(err, job.ErrConflict):
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "the key belongs to a job with another body; send the same body again, or choose another key")
	case errors.Is(err, job.ErrNotFinal):
		return api.NewProblem(http.StatusConflict, api.TypeNotFinal, "the job has not ended yet; cancel it first, or wait for its end")
	case errors.Is(err, job.ErrSchema):
		return api.NewProblem(http.StatusNotImplemented, api.TypeSchema, "it was stored by a later release of Sandlot, which this scheduler cannot read and leaves as it is; use a scheduler of that release")
	case errors.As(err, &full):
		status := http.StatusServiceUnavailable
		if full.Lane {
			status = http.StatusTooManyRequests
		}
		return busy(status, api.TypeFull, full.RetryAfter, "%s", full.What)
	case errors.Is(err, job.ErrFull):
		return busy(http.StatusServiceUnavailable, api.TypeFull, time.Second, "the queue is full")
	case errors.Is(err, queue.ErrTooLarge):
		return api.NewProblem(http.StatusRequestEntityTooLarge, api.TypeTooLarge, "labels, names and keys are too large together")
	case r.Context().Err() != nil:
		return api.NewProblem(499, api.TypeUnavailable, "the client went away")
	case s.isStopping():
		return busy(http.StatusServiceUnavailable, api.TypeUnavailable, time.Second, "this scheduler is stopping")
	case errors.Is(err, context.DeadlineExceeded):
		return busy(http.StatusServiceUnavailable, api.TypeUnavailable, time.Second, "the queue did not answer in time")
	case s.Queue.Healthy(context.WithoutCancel(r.Context())) != nil:
		return busy(http.StatusServiceUnavailable, api.TypeUnavailable, time.Second, "the queue cannot be reached at the moment")
	}
	return api.NewProblem(http.StatusInternalServerError, api.TypeInternal, "something failed on our side; the server's log has the cause")
}

func busy(status int, kind string, after time.Duration, format string, args ...any) *api.Problem {
	p := api.NewProblem(status, kind, format, args...)
	p.RetryAfter = job.MillisOf(max(after, time.Millisecond))
	return p
}

func notFoundText(r *http.Request) string {
	if id := r.PathValue("id"); id != "" {
		return fmt.Sprintf("there is no %q here; it never was, was removed, or has expired", clean(id))
	}
	if name := r.PathValue("name"); name != "" {
		return fmt.Sprintf("there is no image %q here", clean(name))
	}
	return "there is nothing at this address"
}

// clean shortens what a client sent.
func clean(text string) string {
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

// writeError answers with a problem, unless the answer has begun: then the
// connection is cut, so that the client does not take a part for the whole.
func (s *Scheduler) writeError(w *response, r *http.Request, err error) {
	p := s.problemOf(r, err)
	// An answer that has begun and cannot go on has lost its client.
	left := w.status != 0 && errors.As(err, new(*net.OpError))
	if p.Status >= 500 && p.Type == api.TypeInternal && !left {
		s.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	if r.Pattern == "POST /v1/jobs" {
		s.metrics.refuse(r.Context(), p)
	}
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", api.ProblemType)
	soon(w)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	soon(w)
	w.WriteHeader(status)
	_, err = w.Write(data)
	return err
}

// soon bounds the time that the client may take to read what comes next.
func soon(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
}

// patientReader bounds the time that a body may take: each read its own, or
// all of them together until an end. The deadline goes with the body: left
// behind it would look as if the client had gone while it waits for its
// answer.
type patientReader struct {
	body    io.Reader
	control *http.ResponseController
	each    time.Duration
	end     time.Time
}

func (p *patientReader) Read(b []byte) (int, error) {
	deadline := p.end
	if deadline.IsZero() {
		deadline = time.Now().Add(p.each)
	}
	_ = p.control.SetReadDeadline(deadline)
	n, err := p.body.Read(b)
	if err != nil {
		_ = p.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// encode is one line of JSON with < and & as they are.
func encode(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return []byte(b.String()), nil
}

// decoded is what a body says, by one of the decoders of package api.
func decoded[T any](s *Scheduler, w http.ResponseWriter, r *http.Request, decode func([]byte) (T, *api.Problem)) (in T, err error) {
	body, release, err := s.body(w, r)
	if err != nil {
		return in, err
	}
	defer release()
	in, problem := decode(body)
	if problem != nil {
		return in, problem
	}
	return in, nil
}

// body reads a body of bounded size, in bounded time, within what all bodies
// may take together.
func (s *Scheduler) body(w http.ResponseWriter, r *http.Request) (data []byte, release func(), err error) {
	cost := int64(bodyCost)
	if r.ContentLength >= 0 {
		if r.ContentLength > api.MaxBody {
			return nil, nil, api.TooLarge()
		}
		cost = r.ContentLength
	}
	if release, err = s.reserve(r.Context(), cost); err != nil {
		return nil, nil, err
	}
	patient := &patientReader{r.Body, http.NewResponseController(w), s.BodyTime, time.Now().Add(s.BodyTime)}
	data, err = io.ReadAll(http.MaxBytesReader(w, io.NopCloser(patient), api.MaxBody))
	if err != nil {
		release()
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, nil, err
		}
		return nil, nil, api.NewProblem(http.StatusBadRequest, api.TypeSyntax, "the body did not arrive whole: %v", err)
	}
	return data, release, nil
}

// reserve takes room for a body, and refuses when none comes free soon.
func (s *Scheduler) reserve(ctx context.Context, cost int64) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.buffers.Acquire(ctx, cost); err != nil {
		return nil, busy(http.StatusServiceUnavailable, api.TypeUnavailable, time.Second, "too many large requests at once")
	}
	return func() { s.buffers.Release(cost) }, nil
}

// ready waits until the index knows all that was there at the start.
func (s *Scheduler) ready(ctx context.Context) error {
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	for _, known := range []<-chan struct{}{s.index.ready, s.folds.ready} {
		select {
		case <-known:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			return busy(http.StatusServiceUnavailable, api.TypeUnavailable, 2*time.Second, "the scheduler has just started and is still reading its records")
		}
	}
	return nil
}

// waitOf reads ?wait=, a duration such as 10s, or seconds.
func (s *Scheduler) waitOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if seconds, errNumber := strconv.Atoi(text); errNumber == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d < 0 {
		return 0, invalid("wait", clean(text), "write a duration such as 10s")
	}
	return min(d, s.MaxWait), nil
}

// keyOf takes the idempotency key from the header where the body has none.
func keyOf(r *http.Request, in *api.Submit) error {
	key := r.Header.Get("Idempotency-Key")
	switch {
	case key == "":
	case in.IdempotencyKey != "" && in.IdempotencyKey != key:
		return invalid("idempotency_key", in.IdempotencyKey, "differs from the header Idempotency-Key; say it once")
	case len(key) > api.MaxKey:
		return invalid("Idempotency-Key", clean(key), "must be at most %d bytes", api.MaxKey)
	default:
		in.IdempotencyKey = key
	}
	return nil
}

func filterOf(r *http.Request) (filter, error) {
	q := r.URL.Query()
	f := filter{
		state: job.State(q.Get("state")), queue: q.Get("queue"), batch: q.Get("batch"), reason: job.Reason(q.Get("reason")), schedule: q.Get("schedule"),
	}
	if f.state != "" && !f.state.Known() {
		return f, invalid("state", clean(string(f.state)), "is not a state; there are %v", job.States())
	}
	var err error
	if f.limit, err = limitOf(r); err != nil {
		return f, err
	}
	if f.labels, err = labelsOf(r); err != nil {
		return f, err
	}
	if text := q.Get("cursor"); text != "" {
		var ok bool
		if f.before, ok = parsePosition(text); !ok {
			return f, invalid("cursor", clean(text), "is not a cursor; take next of the page before")
		}
	}
	return f, nil
}

// newBatch makes an id for a batch whose client gave none.
func newBatch() string { return uuid.NewString() }
