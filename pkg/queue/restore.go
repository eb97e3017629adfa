package queue

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"

	"github.com/sandlot-dev/sandlot/pkg/backup"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// ErrNotEmpty is of a restore where there are jobs.
var ErrNotEmpty = errors.New("there are jobs here already")

// Restoring is what stands in CFG while a system is being filled.
type Restoring struct {
	Schema int `json:"schema"`
	// Backup is the ID of the backup that must be restored to its end.
	Backup string    `json:"backup"`
	Since  time.Time `json:"since"`
}

// RestoreBackup fills an empty system from a backup. One that was cut off is
// finished by restoring the same backup again; until then the system holds a
// mark, and Restoring says so. ErrNotEmpty, backup.ErrDamaged and
// job.ErrSchema are the file's or the caller's fault.
func (q *Queue) RestoreBackup(ctx context.Context, r *backup.Reader) error {
	if h := r.Header; h.Layout != layoutVersion {
		return fmt.Errorf("restore: it has layout %q, this one writes %s: %w", h.Layout, layoutVersion, backup.ErrFormat)
	}
	if err := job.CheckSchema(r.Header.Schema); err != nil {
		return fmt.Errorf("restore: %w: %w", err, backup.ErrFormat)
	}
	revision, err := q.markRestore(ctx, r.Header.ID)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	f := &filling{q: q}
	for {
		e, err := r.Next()
		if isEOF(err) {
			break
		}
		if err == nil {
			err = f.entry(ctx, e)
		}
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	if err := f.finish(ctx); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := q.removeSetting(ctx, restoreKey, revision); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// markRestore claims an empty system for a backup.
func (q *Queue) markRestore(ctx context.Context, id string) (revision uint64, err error) {
	var mark Restoring
	revision, err = q.readSetting(ctx, restoreKey, &mark)
	switch {
	case err == nil && mark.Backup == id:
		return revision, nil // it was cut off
	case err == nil:
		return 0, fmt.Errorf("backup %s has been restored half-way; restore it to its end, or begin with an empty system: %w", mark.Backup, ErrNotEmpty)
	case !errors.Is(err, job.ErrNotFound):
		return 0, err
	}
	if err := q.empty(ctx); err != nil {
		return 0, err
	}
	return q.writeSetting(ctx, restoreKey, Restoring{job.Schema, id, time.Now().UTC()}, 0)
}

// empty is nil if there are no jobs and no batches.
func (q *Queue) empty(ctx context.Context) error {
	err := q.records(ctx, func(m message) error {
		if gone(m.header) {
			return nil
		}
		return ErrNotEmpty
	})
	if err != nil {
		return err
	}
	there := false
	if err := q.scan(ctx, batchStream, batchSubject("*", "*"), func(m message) { there = there || !gone(m.header) }); err != nil {
		return err
	}
	if there {
		return ErrNotEmpty
	}
	return nil
}

// filling is a restore under way.
type filling struct {
	q *Queue
	// batches wait until all jobs are there, lest items be made again.
	batches [][]byte
}

func (f *filling) entry(ctx context.Context, e backup.Entry) error {
	switch e.Kind {
	case backup.Settings:
		return f.settings(ctx, e.Lines)
	case backup.Records:
		return f.records(ctx, e.Lines)
	case backup.Batches:
		f.batches = append(f.batches, e.Lines...)
		return nil
	}
	return f.object(ctx, e)
}

func (f *filling) object(ctx context.Context, e backup.Entry) error {
	b := Bucket(e.Object.Bucket)
	if b != Images && b != Inputs && b != Outputs {
		return fmt.Errorf("bucket %q is not known: %w", b, backup.ErrDamaged)
	}
	have, err := f.q.Stat(ctx, b, e.Object.Name)
	if err == nil && have.SHA256 == e.Object.SHA256 && have.Size == e.Object.Size {
		_, err = io.Copy(io.Discard, e.Body)
		return err
	}
	_, err = f.q.Put(ctx, b, e.Object.Name, e.Body)
	return err
}

func (f *filling) settings(ctx context.Context, lines [][]byte) error {
	for _, line := range lines {
		var s backupSetting
		if err := json.Unmarshal(line, &s); err != nil {
			return fmt.Errorf("setting: %w", err)
		}
		msg := f.q.message(configSubject(s.Key))
		msg.Data = s.Value
		if _, err := f.q.publish(ctx, msg); err != nil {
			return fmt.Errorf("setting %s: %w", s.Key, err)
		}
	}
	return nil
}

// restored is a record as it goes into its new place. An attempt that ran is
// lost. Results are kept as long as if they had just come.
func restored(line []byte) (stored, error) {
	var s stored
	if err := json.Unmarshal(line, &s); err != nil {
		return s, fmt.Errorf("record: %w", err)
	}
	if err := job.CheckSchema(s.Schema); err != nil {
		return s, fmt.Errorf("record %s: %w", s.ID, err)
	}
	// Later records of the same job are told from this one by their time.
	at := s.UpdatedAt
	if s.State == job.Running || s.State == job.Canceling {
		var err error
		if s, err = abandoned(s, at); err != nil {
			return s, fmt.Errorf("record %s: %w", s.ID, err)
		}
	}
	if s.State.Final() {
		s.ExpiresAt = time.Now().UTC().Add(s.Retention)
	}
	return s, nil
}

func (f *filling) records(ctx context.Context, lines [][]byte) error {
	all := make([]stored, 0, len(lines))
	for _, line := range lines {
		s, err := restored(line)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	return f.put(ctx, all)
}

// put stores records, each in place of an older one of the same backup only.
func (f *filling) put(ctx context.Context, all []stored) error {
	latest := map[string]int{}
	for i, s := range all {
		latest[s.ID] = i
	}
	msgs := make([]*nats.Msg, len(all))
	for i, s := range all {
		if latest[s.ID] != i {
			continue // a later one follows
		}
		var err error
		if msgs[i], err = f.q.encode(s); err != nil {
			return err
		}
	}
	for i, w := range f.q.publishAll(ctx, msgs) {
		if msgs[i] == nil {
			continue
		}
		if errors.Is(w.err, errMoved) || w.err != nil && transient(w.err) {
			w.err = f.replace(ctx, all[i])
		}
		if w.err != nil {
			return fmt.Errorf("record %s: %w", all[i].ID, w.err)
		}
		if all[i].State == job.Dead {
			f.q.bury(ctx, all[i])
		}
	}
	return nil
}

// replace stores a record where an earlier state of it is, or nothing.
func (f *filling) replace(ctx context.Context, s stored) error {
	for {
		have, err := f.q.readAtLeader(ctx, s.Tenant, s.ID)
		switch {
		case errors.Is(err, job.ErrNotFound):
		case err != nil:
			return err
		case !have.UpdatedAt.Before(s.UpdatedAt):
			return nil // the same, or it has gone on here
		}
		s.seq = have.seq
		if _, err = f.q.put(ctx, s); !errors.Is(err, errMoved) {
			return err
		}
	}
}

// finish opens the batches and gives the hints of all that waits.
func (f *filling) finish(ctx context.Context) error {
	for _, line := range f.batches {
		if err := f.batch(ctx, line); err != nil {
			return err
		}
	}
	var prompts []*nats.Msg
	flush := func() error {
		for i, w := range f.q.publishAll(ctx, prompts) {
			if w.err != nil {
				return fmt.Errorf("hint of %s: %w", prompts[i].Header.Get(headerJob), w.err)
			}
		}
		prompts = prompts[:0]
		return nil
	}
	err := f.q.Records(ctx, func(s Summary) error {
		if s.State != job.Queued && s.State != job.Retrying {
			return nil
		}
		prompts = append(prompts, f.q.prompts(s)...)
		if len(prompts) < asyncWindow/2 {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// batch restores a batch. One that runs counts from the beginning: the places
// in the streams that it was folded up to are not those of this system. What it
// had stored of its results becomes records again, which are folded and stored
// anew.
func (f *filling) batch(ctx context.Context, line []byte) error {
	var b job.Batch
	if err := json.Unmarshal(line, &b); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	if err := job.CheckSchema(b.Schema); err != nil {
		return fmt.Errorf("batch %s: %w", b.ID, err)
	}
	_, seq, err := f.q.batchAt(ctx, b.Tenant, b.ID)
	if err == nil {
		return nil // restored before
	}
	if !errors.Is(err, job.ErrNotFound) {
		return fmt.Errorf("batch %s: %w", b.ID, err)
	}
	if b.State.Active() {
		for _, segment := range b.Results {
			if err := f.unpackResults(ctx, segment.Name); err != nil {
				return fmt.Errorf("batch %s: %w", b.ID, err)
			}
		}
		b.Cursor, b.Since, b.Folded, b.Results, b.Checkpoint, b.Counts = 0, nil, nil, nil, "", job.BatchCounts{}
	}
	if _, err := f.q.putBatch(ctx, b, seq); err != nil && !errors.Is(err, errMoved) {
		return fmt.Errorf("batch %s: %w", b.ID, err)
	}
	return nil
}

// unpackResults makes records of a segment of results.
func (f *filling) unpackResults(ctx context.Context, name string) error {
	object, _, err := f.q.Open(ctx, Outputs, name)
	if err != nil {
		return err
	}
	defer object.Close()
	plain, err := zstd.NewReader(object, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("results %s: %w", name, err)
	}
	defer plain.Close()
	lines := bufio.NewReaderSize(plain, 64<<10)
	var some []stored
	for size := 0; ; {
		line, err := lines.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			var result struct {
				Record json.RawMessage `json:"r"`
			}
			if err := json.Unmarshal(line, &result); err != nil {
				return fmt.Errorf("results %s: %w", name, err)
			}
			s, err := restored(result.Record)
			if err != nil {
				return fmt.Errorf("results %s: %w", name, err)
			}
			some, size = append(some, s), size+len(line)
		}
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return fmt.Errorf("results %s: %w", name, err)
		}
		if last || size > chunkBytes {
			if err := f.put(ctx, some); err != nil {
				return err
			}
			some, size = some[:0], 0
		}
		if last {
			return nil
		}
	}
}

// chunkBytes is about how much is stored at once.
const chunkBytes = 4 << 20

func isEOF(err error) bool { return errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) }

// readFull fills p, or reads all that there is.
func readFull(r io.Reader, p []byte) (int, error) {
	n, err := io.ReadFull(r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return n, nil
	}
	return n, err
}

// join is what was read already and the rest.
func join(head []byte, rest io.Reader) io.Reader { return io.MultiReader(bytes.NewReader(head), rest) }
