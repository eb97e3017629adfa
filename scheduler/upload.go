package scheduler

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// handleUpload stores a batch: its items go to segments while they arrive, so
// that only one segment is in memory, and one write of its key opens it. What
// was stored of an upload that was cut off is there when it is sent again.
func (s *Scheduler) handleUpload(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if err != nil { // told at once, instead of when the rest has come
			w.Header().Set("Connection", "close")
		}
	}()
	release, err := s.reserve(r.Context(), windowCost)
	if err != nil {
		return err
	}
	defer release()
	source, err := s.uploadSource(w, r)
	if err != nil {
		return err
	}
	u := &upload{s: s, source: source, tenant: tenantOf(r.Context()), keys: map[[16]byte]uint32{}, sum: sha256.New()}
	if u.from, err = countOf(r, "from"); err != nil {
		return err
	}
	defer u.free()
	ctx := withDigests(r.Context())
	if err := u.begin(ctx); err != nil {
		return err
	}
	err = u.takeAll(ctx)
	if err == nil {
		err = u.finish(ctx)
	}
	if err != nil {
		return u.giveUp(ctx, err)
	}
	v, ok := s.folds.get(u.tenant, u.batch.ID)
	if !ok {
		v = foldView{Batch: u.batch, counts: u.batch.Counts}
	}
	w.Header().Set("Location", "/v1/batches/"+u.batch.ID)
	status := http.StatusCreated
	if u.known {
		status = http.StatusOK
	}
	return writeJSON(w, status, v.api())
}

func countOf(r *http.Request, name string) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, invalid(name, clean(text), "write a number of lines")
	}
	return n, nil
}

// itemSource yields the items of an upload as they were written.
type itemSource interface {
	// head has the settings.
	head() (*api.BatchReader, error)
	// next is the next item; whole is false for one that is too long, of
	// which only the beginning is there. io.EOF comes after the last.
	next() (raw []byte, whole bool, err error)
}

func (s *Scheduler) uploadSource(w http.ResponseWriter, r *http.Request) (itemSource, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	body := &patientReader{body: r.Body, control: http.NewResponseController(w), each: s.BodyTime}
	switch {
	case err == nil && media == typeJSON:
		return newArraySource(body), nil
	case err == nil && (media == typeNDJSON || media == "application/jsonl" || media == "application/x-jsonlines"):
		return &lineSource{in: bufio.NewReaderSize(body, 64<<10)}, nil
	}
	return nil, api.NewProblem(http.StatusUnsupportedMediaType, api.TypeSyntax, "Content-Type is %q; send %s with an item per line, or %s with the items in a list", clean(r.Header.Get("Content-Type")), typeNDJSON, typeJSON)
}

// lineSource reads NDJSON.
type lineSource struct {
	in *bufio.Reader
	// kept is the first line, if it was none of settings.
	kept    []byte
	whole   bool
	pending bool
	end     error
}

func (l *lineSource) head() (*api.BatchReader, error) {
	raw, whole, err := l.next()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return &api.BatchReader{}, nil
		}
		return nil, err
	}
	if whole {
		if reader, head, problem := api.DecodeBatchHead(raw); head {
			if problem != nil {
				return nil, problem
			}
			return reader, nil
		}
	}
	l.kept, l.whole, l.pending = raw, whole, true
	return &api.BatchReader{}, nil
}

func (l *lineSource) next() ([]byte, bool, error) {
	if l.pending {
		l.pending = false
		return l.kept, l.whole, nil
	}
	for l.end == nil {
		raw, whole, err := readLine(l.in)
		l.end = err
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, false, err // the line is not whole
		}
		if len(raw) > 0 || !whole {
			return raw, whole, nil
		}
	}
	return nil, false, l.end
}

// arraySource reads one JSON object whose last field is the list of items.
type arraySource struct {
	dec   *json.Decoder
	limit *itemLimit
}

// itemLimit refuses to read on when what is being read is too large.
type itemLimit struct {
	in   io.Reader
	left int
}

func (l *itemLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, api.TooLarge()
	}
	n, err := l.in.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func newArraySource(in io.Reader) *arraySource {
	limit := &itemLimit{in: in}
	a := &arraySource{dec: json.NewDecoder(limit), limit: limit}
	a.allow()
	return a
}

// allow gives the next value its room.
func (a *arraySource) allow() { a.limit.left = api.MaxBody + 64<<10 }

func (a *arraySource) head() (*api.BatchReader, error) {
	if t, err := a.dec.Token(); err != nil || t != json.Delim('{') {
		return nil, badSyntax(err, "the body is not a JSON object")
	}
	settings := map[string]json.RawMessage{}
	for a.dec.More() {
		name, err := a.dec.Token()
		if err != nil {
			return nil, badSyntax(err, "the body is cut short")
		}
		if name == "items" {
			if t, err := a.dec.Token(); err != nil || t != json.Delim('[') {
				return nil, invalid("items", nil, "must be a list of items")
			}
			return readSettings(settings)
		}
		var value json.RawMessage
		if err := a.dec.Decode(&value); err != nil {
			return nil, badSyntax(err, "the body is cut short")
		}
		settings[fmt.Sprint(name)] = value
		a.allow()
	}
	return nil, invalid("items", nil, "is missing; give a list of items, after all other fields")
}

func readSettings(fields map[string]json.RawMessage) (*api.BatchReader, error) {
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, badSyntax(err, "the settings cannot be read")
	}
	reader, problem := api.DecodeBatchSettings(body)
	if problem != nil {
		return nil, problem
	}
	return reader, nil
}

func badSyntax(err error, text string) error {
	var p *api.Problem
	if errors.As(err, &p) {
		return p
	}
	if err != nil {
		text = fmt.Sprintf("%s: %v", text, err)
	}
	return api.NewProblem(http.StatusBadRequest, api.TypeSyntax, "%s", text)
}

func (a *arraySource) next() ([]byte, bool, error) {
	a.allow()
	if a.dec.More() {
		var raw json.RawMessage
		if err := a.dec.Decode(&raw); err != nil {
			return nil, false, badSyntax(err, "an item cannot be read")
		}
		var line bytes.Buffer
		if err := json.Compact(&line, raw); err != nil {
			return nil, false, badSyntax(err, "an item cannot be read")
		}
		return line.Bytes(), true, nil
	}
	for _, want := range []json.Delim{']', '}'} {
		t, err := a.dec.Token()
		if err != nil {
			return nil, false, badSyntax(err, "the body is cut short")
		}
		if t != want {
			return nil, false, api.NewProblem(http.StatusBadRequest, api.TypeSyntax, "something follows the list of items; items must be the last field")
		}
	}
	return nil, false, io.EOF
}

// upload is one request that brings a batch.
type upload struct {
	s      *Scheduler
	source itemSource
	reader *api.BatchReader
	tenant string
	// from is after which line the client goes on, -1 if it sends all.
	from int

	batch job.Batch
	nonce string
	// known: the batch was opened before; its lines are only compared.
	known bool
	// line counts the lines of the batch that have been seen, skip those that
	// are stored.
	line, skip int
	sum        hash.Hash
	keys       map[[16]byte]uint32
	cost       int64 // taken of Config.Buffer for keys
	open       *segment
}

const (
	// uploadAge is how long an upload may rest before it is removed.
	uploadAge = 24 * time.Hour
	// keysAtOnce is for how many keys room is reserved, and keysCost how much.
	keysAtOnce, keysCost = 1 << 16, 4 << 20
)

// begin finds the batch or makes it.
func (u *upload) begin(ctx context.Context) (err error) {
	if u.reader, err = u.source.head(); err != nil {
		return cutOff(err)
	}
	settings := u.reader.Settings
	if most := int64(u.s.BatchItems); settings.Items > most {
		return tooManyItems(most)
	}
	if err := u.s.callbacks.check(settings.Callback); err != nil {
		return err
	}
	want, err := u.wanted(settings)
	if err != nil {
		return err
	}
	for {
		created, err := u.s.Queue.CreateBatch(ctx, want)
		if err == nil {
			u.batch = created.Batch
			u.s.folds.set(created)
			return u.continueFrom(0)
		}
		if !errors.Is(err, job.ErrConflict) {
			return fmt.Errorf("begin upload: %w", err)
		}
		err = u.resume(ctx, want)
		if !errors.Is(err, job.ErrNotFound) {
			return err
		}
		if _, mine := u.s.Queue.Batch(ctx, u.tenant, want.ID); errors.Is(mine, job.ErrNotFound) {
			return invalid("id", want.ID, "is taken; choose another UUID")
		}
	}
}

// wanted is the batch as the request asks for it.
func (u *upload) wanted(settings api.BatchSettings) (job.Batch, error) {
	u.nonce = uuid.NewString()
	id := settings.ID
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			return job.Batch{}, fmt.Errorf("make id: %w", err)
		}
		id = made.String()
	}
	settings.ID = ""
	data, err := json.Marshal(settings)
	if err != nil {
		return job.Batch{}, fmt.Errorf("hash settings: %w", err)
	}
	sum := sha256.Sum256(data)
	b := job.Batch{
		ID: id, Tenant: u.tenant, State: job.BatchUploading, Name: settings.Name, Settings: hex.EncodeToString(sum[:]),
		Upload: u.nonce, CreatedAt: time.Now().UTC(), Retention: u.s.retention(u.tenant),
	}
	b.StopAfter, b.Success, b.Callback = settings.StopAfter, settings.Success, settings.Callback
	return b, nil
}

var errOtherSettings = api.NewProblem(http.StatusConflict, api.TypeConflict, "the batch of this id has other settings; send the same ones, or choose another id")

// resume goes on with a batch that is there. A batch that is open already must
// be the same.
func (u *upload) resume(ctx context.Context, want job.Batch) error {
	c, err := u.s.Queue.ChangeBatch(ctx, u.tenant, want.ID, func(b *job.Batch) error {
		if b.Settings != want.Settings {
			return errOtherSettings
		}
		if b.State != job.BatchUploading {
			return errOpen
		}
		b.Upload = u.nonce // whoever else uploads it has lost it
		return nil
	})
	u.batch = c.Batch
	if errors.Is(err, errOpen) {
		u.known = true
		return u.continueFrom(0)
	}
	if err != nil {
		return fmt.Errorf("resume upload: %w", err)
	}
	if err := u.readKeys(ctx); err != nil {
		return fmt.Errorf("resume upload: %w", err)
	}
	return u.continueFrom(u.batch.Lines)
}

var errOpen = errors.New("batch is open")

// continueFrom settles which lines of the request are new.
func (u *upload) continueFrom(stored int) error {
	u.skip = stored
	if u.from < 0 || u.known {
		return nil
	}
	if u.from != stored {
		return invalid("from", u.from, "the batch has %d lines; send those after them", stored)
	}
	u.line = stored
	if stored == 0 {
		return nil
	}
	if err := u.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(u.batch.Digest); err != nil {
		return fmt.Errorf("resume upload: digest: %w", err)
	}
	return nil
}

// readKeys takes the keys that are stored.
func (u *upload) readKeys(ctx context.Context) error {
	for _, part := range u.batch.Manifest {
		lines, err := openPacked(ctx, u.s.Queue, queue.Inputs, part.Name)
		if err != nil {
			return err
		}
		for {
			var l manifestLine
			err := lines.next(&l)
			if err == nil && l.Error == nil {
				err = u.addKey(l.Key, l.Line)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				lines.close()
				return err
			}
		}
		lines.close()
	}
	return nil
}

// addKey notes a key; *api.Problem if another line has it.
func (u *upload) addKey(key string, line int) error {
	sum := sha256.Sum256([]byte(key))
	short := [16]byte(sum[:16])
	if first, taken := u.keys[short]; taken {
		return invalid("key", clean(key), "is that of line %d already; give this line another", first)
	}
	if len(u.keys)%keysAtOnce == 0 {
		if !u.s.buffers.TryAcquire(keysCost) {
			return busy(http.StatusServiceUnavailable, api.TypeUnavailable, 5*time.Second, "too many large requests at once")
		}
		u.cost += keysCost
	}
	u.keys[short] = uint32(line)
	return nil
}

func (u *upload) free() {
	u.keys = nil
	u.s.buffers.Release(u.cost)
	u.cost = 0
}

// takeAll takes the lines until they end.
func (u *upload) takeAll(ctx context.Context) error {
	for {
		raw, whole, err := u.source.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return cutOff(err)
		}
		u.line++
		u.sum.Write(raw)
		u.sum.Write([]byte{'\n'})
		switch {
		case u.known:
			continue
		case u.line < u.skip:
			continue
		case u.line == u.skip:
			if !slices.Equal(u.state(), u.batch.Digest) {
				return api.NewProblem(http.StatusConflict, api.TypeConflict, "the first %d lines are not those that this batch has; send the same lines, or choose another id", u.skip)
			}
			continue
		case u.line > u.s.BatchItems:
			return tooManyItems(int64(u.s.BatchItems))
		}
		if err := u.take(ctx, raw, whole); err != nil {
			return err
		}
	}
}

func tooManyItems(most int64) *api.Problem {
	return api.NewProblem(http.StatusRequestEntityTooLarge, api.TypeTooLarge, "a batch may have at most %d items here; split it into several", most)
}

// cutOff is the problem of a body that did not arrive whole.
func cutOff(err error) error {
	var p *api.Problem
	if errors.As(err, &p) {
		return p
	}
	return api.NewProblem(http.StatusBadRequest, api.TypeSyntax, "the body did not arrive whole: %v; what arrived is kept, send it again under the same id", err)
}

// state is that of the hash of all lines so far.
func (u *upload) state() []byte {
	state, _ := u.sum.(encoding.BinaryMarshaler).MarshalBinary() // of a hash of the standard library: never fails
	return state
}

// take adds one line to the open segment.
func (u *upload) take(ctx context.Context, raw []byte, whole bool) error {
	l, err := u.draft(ctx, raw, whole)
	if err != nil {
		return err
	}
	if u.open == nil {
		u.open = newSegment(u.batch.Jobs, u.line)
	}
	if err := u.open.add(l); err != nil {
		return err
	}
	if u.open.full() {
		return u.flush(ctx)
	}
	return nil
}

// draft checks one line. Only what is our fault is an error.
func (u *upload) draft(ctx context.Context, raw []byte, whole bool) (_ manifestLine, err error) {
	l := manifestLine{Line: u.line}
	problem := api.TooLarge()
	var item api.BatchItem
	if whole {
		item, problem = u.reader.Item(raw)
	}
	if l.Key, l.Group = item.Key, item.Group; l.Key == "" {
		l.Key = keyIn(raw)
	}
	if problem == nil {
		var spec job.Spec
		var at placement
		spec, at, err = u.s.draftSpec(ctx, item.Submit)
		l.Pool, l.Class, l.Preferred, l.Spill = at.Pool, at.Class, at.preferred, at.spill
		if err == nil {
			err = u.addKey(item.Key, u.line)
		}
		if err == nil {
			l.Spec = &spec
			return l, nil
		}
		problem = u.s.lineProblem(ctx, err)
	}
	if problem.Status >= 500 && problem.Type != api.TypeUnfit {
		return l, problem
	}
	l.Error = problem
	return l, nil
}

// draftSpec is what an item asks for, in full, and where it runs.
func (s *Scheduler) draftSpec(ctx context.Context, in api.Submit) (spec job.Spec, at placement, err error) {
	if in, err = s.expand(in); err != nil {
		return spec, at, err
	}
	spec = in.Spec()
	at, err = s.possible(ctx, &spec, "", "")
	return spec, at, err
}

// flush stores the open segment and names it in the batch.
func (u *upload) flush(ctx context.Context) error {
	part := u.open
	u.open = nil
	if part == nil {
		return nil
	}
	if len(u.batch.Manifest) >= maxSegments {
		return api.NewProblem(http.StatusRequestEntityTooLarge, api.TypeTooLarge, "the items are larger than a batch may be; split it into several")
	}
	if err := part.store(ctx, u.s.Queue, u.batch.ID, len(u.batch.Manifest)); err != nil {
		return fmt.Errorf("store items: %w", err)
	}
	named := func(b job.Batch) bool {
		return slices.ContainsFunc(b.Manifest, func(s job.ManifestSegment) bool { return s.Name == part.Name })
	}
	return u.change(ctx, named, func(b *job.Batch) {
		b.Manifest = append(b.Manifest, part.ManifestSegment)
		b.Lines, b.Jobs, b.Refused = b.Lines+part.lines, b.Jobs+part.Jobs, b.Refused+part.Refused
		b.Digest = u.state()
	})
}

// change changes the batch, if it is still ours to upload. done tells a batch
// that was changed already: the answer to the write may have been lost.
func (u *upload) change(ctx context.Context, done func(job.Batch) bool, change func(*job.Batch)) error {
	c, err := u.s.Queue.ChangeBatch(ctx, u.tenant, u.batch.ID, func(b *job.Batch) error {
		if b.Upload == u.nonce && done(*b) {
			return errDone
		}
		if b.State != job.BatchUploading || b.Upload != u.nonce {
			return api.NewProblem(http.StatusConflict, api.TypeConflict, "another request uploads this batch now, or it was removed")
		}
		change(b)
		return nil
	})
	if err != nil && !errors.Is(err, errDone) {
		return err
	}
	u.batch = c.Batch
	u.s.folds.set(c)
	return nil
}

var errDone = errors.New("batch is changed already")

// finish opens the batch.
func (u *upload) finish(ctx context.Context) error {
	switch announced := u.reader.Settings.Items; {
	case u.line == 0:
		return invalid("items", nil, "there are none; a batch has at least one")
	case announced > 0 && int64(u.line) != announced:
		return invalid("items", announced, "came as %d lines; send all of them under the same id", u.line)
	case u.known && !slices.Equal(u.sum.Sum(nil), u.batch.Digest):
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "the batch of this id has other items; choose another id")
	case u.known:
		return nil
	case u.line < u.skip:
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "the batch has %d lines already and only %d came; send all of them, or choose another id", u.skip, u.line)
	}
	if err := u.flush(ctx); err != nil {
		return err
	}
	since, err := u.s.Queue.Sequences(ctx)
	if err != nil {
		return fmt.Errorf("open batch: %w", err)
	}
	opened := func(b job.Batch) bool { return b.State != job.BatchUploading }
	return u.change(ctx, opened, func(b *job.Batch) {
		b.State, b.OpenedAt, b.Since, b.Folded = job.BatchRunning, time.Now().UTC(), since, slices.Clone(since)
		b.Digest = u.sum.Sum(nil)
	})
}

// giveUp ends an upload that failed: what arrived is kept, unless more of it
// would not help.
func (u *upload) giveUp(ctx context.Context, err error) error {
	if u.known || u.batch.ID == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var p *api.Problem
	if errors.As(err, &p) && (p.Status == http.StatusRequestEntityTooLarge || u.line == 0 && u.batch.Lines == 0) {
		if gone := u.s.removeBatch(ctx, u.tenant, u.batch.ID, func(b job.Batch) error {
			if b.Upload != u.nonce {
				return job.ErrNotFound
			}
			return nil
		}); gone != nil && !errors.Is(gone, job.ErrNotFound) {
			u.s.log.Warn("remove refused batch", "batch", u.batch.ID, "error", gone)
		}
		return err
	}
	// The hash must end with the last line that is stored.
	if u.open != nil && u.line == u.batch.Lines+u.open.lines {
		if kept := u.flush(ctx); kept != nil {
			u.s.log.Debug("keep what was uploaded", "batch", u.batch.ID, "error", kept)
		}
	}
	return err
}
