package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// place is how far somebody has read the results of a batch: first the lines
// that were refused, by their number, then what has ended, by the sequences of
// the record streams. It means the same to every scheduler, at every time.
type place struct {
	line int
	seqs []uint64 // nil while refused lines are told
}

// has reports whether a final record was told.
func (p place) has(shard int, seq uint64) bool { return shard < len(p.seqs) && seq <= p.seqs[shard] }

// past reports whether all up to these sequences was told.
func (p place) past(seqs []uint64) bool {
	for shard, seq := range seqs {
		if !p.has(shard, seq) {
			return false
		}
	}
	return true
}

// tell notes that a final record was told.
func (p *place) tell(shard int, seq uint64) {
	if shard < len(p.seqs) {
		p.seqs[shard] = max(p.seqs[shard], seq)
	}
}

func (p place) String() string {
	if p.seqs == nil {
		return "l" + strconv.Itoa(p.line)
	}
	parts := make([]string, len(p.seqs))
	for i, seq := range p.seqs {
		parts[i] = strconv.FormatUint(seq, 36)
	}
	return "s" + strings.Join(parts, ".")
}

func parsePlace(text string, shards int) (place, bool) {
	switch {
	case text == "":
		return place{}, true
	case text[0] == 'l':
		n, err := strconv.Atoi(text[1:])
		return place{line: n}, err == nil && n >= 0
	case text[0] != 's':
		return place{}, false
	}
	parts := strings.Split(text[1:], ".")
	p := place{seqs: make([]uint64, len(parts))}
	var err error
	for i, part := range parts {
		if p.seqs[i], err = strconv.ParseUint(part, 36, 64); err != nil {
			return place{}, false
		}
	}
	return p, len(parts) == shards
}

// resultStream tells the results of one batch to one client.
type resultStream struct {
	s       *Scheduler
	r       *http.Request
	w       http.ResponseWriter
	control *http.ResponseController
	at      place
	out     bytes.Buffer
}

// refusedResult is the line of a line that was refused.
type refusedResult struct {
	api.LineAnswer
	Cursor string `json:"cursor"`
}

// streamResults tells the results of a batch from a place on, each once: what
// is in segments, then what has ended since; with follow to the end.
func (s *Scheduler) streamResults(w http.ResponseWriter, r *http.Request, b job.Batch, follow bool) error {
	cursor := r.URL.Query().Get("after")
	at, ok := parsePlace(cursor, len(b.Since))
	if !ok {
		return invalid("after", clean(cursor), "is not a cursor of this batch; take the cursor of a line of its results")
	}
	t := &resultStream{s: s, r: r, w: w, control: http.NewResponseController(w), at: at}
	w.Header().Set("Content-Type", typeNDJSON)
	w.WriteHeader(http.StatusOK)
	if t.at.seqs == nil {
		if err := t.refused(b); err != nil {
			return err
		}
		t.at.seqs = slices.Clone(b.Since)
	}
	alive := time.NewTicker(heartbeat)
	defer alive.Stop()
	for {
		v, err := s.foldSoon(r.Context(), b.Tenant, b.ID)
		if errors.Is(err, job.ErrNotFound) {
			return t.flush() // it was removed
		}
		if err != nil {
			return err
		}
		told, err := t.some(v)
		if err != nil {
			return err
		}
		if err := t.flush(); err != nil {
			return err
		}
		switch {
		case told:
			continue
		case !follow || v.State.Final():
			return nil
		}
		select {
		case <-v.changed:
		case <-alive.C:
			if err := writePiece(w, t.control, []byte("\n")); err != nil {
				return err
			}
		case <-r.Context().Done():
			return context.Cause(r.Context())
		case <-s.stopping:
			return errStopping // cut, so that the client asks again
		}
	}
}

// some tells some of what is new; false if nothing is.
func (t *resultStream) some(v foldView) (bool, error) {
	var items []endedItem
	if t.at.past(v.Folded) {
		var behind bool
		if items, behind = t.s.folds.ended(v.Tenant, v.ID, t.at, bodiesAtOnce); len(items) == 0 {
			return behind, nil
		}
	}
	// A scheduler that lags does not see the end of an item that was stored and
	// forgotten meanwhile, only that of later ones: those wait until all that
	// was stored before they were seen has been told.
	b, err := t.s.Queue.Batch(t.r.Context(), v.Tenant, v.ID)
	if errors.Is(err, job.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !t.at.past(b.Folded) {
		return true, t.stored(b)
	}
	return true, t.unstored(b, items)
}

// stored tells what is in segments.
func (t *resultStream) stored(b job.Batch) error {
	for _, part := range b.Results {
		if !t.at.past(part.Folded) {
			if err := t.segment(b, part); err != nil {
				return err
			}
		}
	}
	for shard, seq := range b.Folded {
		t.at.tell(shard, seq)
	}
	return nil
}

// unstored tells items that have ended and are in no segment.
func (t *resultStream) unstored(b job.Batch, items []endedItem) error {
	bodies, err := t.s.bodies(t.r.Context(), b, items)
	if err != nil {
		return err
	}
	for _, e := range items {
		body := bodies[e.index]
		if body == nil {
			return t.s.nap(t.r.Context()) // it is in a segment by now
		}
		rec, err := queue.DecodeRecord(body)
		if err != nil {
			return err
		}
		if err := t.result(b, rec, e.shard, e.seq); err != nil {
			return err
		}
	}
	return nil
}

// nap lets what is under way arrive.
func (s *Scheduler) nap(ctx context.Context) error { return wait(ctx, 20*time.Millisecond) }

// segment tells a segment of results.
func (t *resultStream) segment(b job.Batch, part job.ResultSegment) error {
	lines, err := openPacked(t.r.Context(), t.s.Queue, queue.Outputs, part.Name)
	if err != nil {
		return err
	}
	defer lines.close()
	for {
		var l resultLine
		err := lines.next(&l)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("results %s: %w", part.Name, err)
		}
		if t.at.has(l.Shard, l.Seq) {
			continue
		}
		rec, err := queue.DecodeRecord(l.Rec)
		if err != nil {
			return err
		}
		if err := t.result(b, rec, l.Shard, l.Seq); err != nil {
			return err
		}
	}
	for shard, seq := range part.Folded {
		t.at.tell(shard, seq)
	}
	return nil
}

// result tells one result.
func (t *resultStream) result(b job.Batch, rec job.Record, shard int, seq uint64) error {
	t.at.tell(shard, seq)
	v, err := t.s.answer(t.r.Context(), rec)
	if err != nil {
		return err
	}
	v.ExpiresAt = b.ExpiresAt
	return t.write(api.BatchResult{Job: v, Cursor: t.at.String()})
}

func (t *resultStream) write(v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	t.out.Write(data)
	if t.out.Len() > 64<<10 {
		return t.flush()
	}
	return nil
}

func (t *resultStream) flush() error {
	if t.out.Len() == 0 {
		return nil
	}
	defer t.out.Reset()
	return writePiece(t.w, t.control, t.out.Bytes())
}

// refused tells the lines of the upload of which no job came.
func (t *resultStream) refused(b job.Batch) error {
	for _, part := range b.Manifest {
		if part.Refused == 0 || part.Line+part.Refused+part.Jobs-1 <= t.at.line {
			continue
		}
		lines, err := openPacked(t.r.Context(), t.s.Queue, queue.Inputs, part.Name)
		if err != nil {
			return err
		}
		err = t.refusedOf(lines)
		lines.close()
		if err != nil {
			return fmt.Errorf("manifest %s: %w", part.Name, err)
		}
	}
	return t.flush()
}

func (t *resultStream) refusedOf(lines *packedReader) error {
	for {
		var l manifestLine
		err := lines.next(&l)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if l.Error == nil || l.Line <= t.at.line {
			continue
		}
		t.at.line = l.Line
		answer := api.LineAnswer{Line: l.Line, Key: l.Key, State: api.Rejected, Error: l.Error}
		if err := t.write(refusedResult{answer, t.at.String()}); err != nil {
			return err
		}
	}
}

// itemRecord is the record of an item of a batch, wherever it is: before its
// turn in the manifest, after its end in a segment of results.
func (s *Scheduler) itemRecord(ctx context.Context, id, batch string, index int) (job.Record, error) {
	tenant := tenantOf(ctx)
	for try := 0; ; try++ {
		rec, recErr := s.Queue.Get(ctx, tenant, id)
		if recErr != nil && !errors.Is(recErr, job.ErrNotFound) {
			return rec, fmt.Errorf("get job %s: %w", id, recErr)
		}
		b, err := s.Queue.Batch(ctx, tenant, batch)
		if err == nil && (b.State == job.BatchUploading || index >= b.Jobs) {
			err = job.ErrNotFound
		}
		if err != nil {
			return rec, fmt.Errorf("get job %s: %w", id, err)
		}
		if stored, ok, err := s.storedItem(ctx, b, index); ok || err != nil {
			stored.ExpiresAt = b.ExpiresAt
			return stored, err
		}
		if recErr == nil {
			return rec, nil
		}
		if index >= b.Cursor {
			return s.waitingItem(ctx, b, index)
		}
		// It had a record when the batch was read: it moves right now.
		if try == 100 {
			return rec, fmt.Errorf("get job %s: its batch has lost it: %w", id, job.ErrNotFound)
		}
		if err := s.nap(ctx); err != nil {
			return rec, err
		}
	}
}

// storedItem looks for an item in the segments of results.
func (s *Scheduler) storedItem(ctx context.Context, b job.Batch, index int) (job.Record, bool, error) {
	for _, part := range b.Results {
		if index < part.Low || index > part.High {
			continue
		}
		rec, ok, err := s.storedIn(ctx, part, index)
		if ok || err != nil {
			return rec, ok, err
		}
	}
	return job.Record{}, false, nil
}

func (s *Scheduler) storedIn(ctx context.Context, part job.ResultSegment, index int) (job.Record, bool, error) {
	lines, err := openPacked(ctx, s.Queue, queue.Outputs, part.Name)
	if err != nil {
		return job.Record{}, false, fmt.Errorf("results: %w", err)
	}
	defer lines.close()
	for {
		var l resultLine
		err := lines.next(&l)
		if errors.Is(err, io.EOF) {
			return job.Record{}, false, nil
		}
		if err != nil {
			return job.Record{}, false, fmt.Errorf("results %s: %w", part.Name, err)
		}
		if l.Index == index {
			rec, err := queue.DecodeRecord(l.Rec)
			return rec, err == nil, err
		}
	}
}

// waitingItem is an item that has not had its turn.
func (s *Scheduler) waitingItem(ctx context.Context, b job.Batch, index int) (job.Record, error) {
	line, err := itemAt(ctx, s.Queue, b, index)
	if err != nil {
		return job.Record{}, fmt.Errorf("item %d of batch %s: %w", index, b.ID, err)
	}
	rec := recordOf(line.Spec, "")
	rec.ID, rec.Tenant, rec.Batch, rec.Key, rec.Group = job.ItemID(b.ID, index), b.Tenant, b.ID, line.Key, line.Group
	rec.Pool, rec.Class, rec.Preferred, rec.Spill = line.Pool, line.Class, line.Preferred, line.Spill
	rec.AcceptedAt, rec.UpdatedAt, rec.Timings.Accept = b.OpenedAt, b.OpenedAt, b.OpenedAt
	return rec, nil
}
