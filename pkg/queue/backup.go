package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/backup"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// A backup holds what cannot be made again: records, batches, settings and
// objects. Hints and timers follow from the records; worker keys and live
// output mean nothing elsewhere.
//
// It is taken while everything goes on, so its parts are not of one moment.
// What refers is therefore read before what is referred to is read for the
// last time: objects, then records and batches, then the objects that came
// meanwhile. The records decide: an attempt that ran is one that was lost.

// backupSetting is a key of CFG in a backup.
type backupSetting struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// restoreKey is the key of CFG that stands while a system is being filled.
const restoreKey = "restore"

// scanBytes bounds a page of whole messages.
const scanBytes = 8 << 20

// NewBackup is the header of a backup of this queue.
func (q *Queue) NewBackup(release string) backup.Header {
	return backup.Header{
		ID: uuid.NewString(), Schema: job.Schema, Layout: layoutVersion, CreatedAt: time.Now().UTC(), Sandlot: release,
	}
}

// Backup writes all state. dir is for a file that holds the records until
// their objects are written.
func (q *Queue) Backup(ctx context.Context, w *backup.Writer, dir string) error {
	done := map[Bucket]map[string]bool{Images: {}, Inputs: {}, Outputs: {}}
	if err := q.backUpObjects(ctx, w, done); err != nil {
		return fmt.Errorf("back up objects: %w", err)
	}
	spool, err := os.CreateTemp(dir, "sandlot-backup-")
	if err != nil {
		return fmt.Errorf("back up records: %w", err)
	}
	defer func() { _ = errors.Join(spool.Close(), os.Remove(spool.Name())) }()
	if err := q.spoolLines(ctx, spool); err != nil {
		return fmt.Errorf("back up records: %w", err)
	}
	if err := q.backUpObjects(ctx, w, done); err != nil {
		return fmt.Errorf("back up objects: %w", err)
	}
	return copyLines(spool, w)
}

// spoolLines writes settings, records and batches into a file, as a backup
// without objects.
func (q *Queue) spoolLines(ctx context.Context, spool *os.File) error {
	w, err := backup.NewWriter(spool, backup.Header{})
	if err != nil {
		return err
	}
	err = q.eachSetting(ctx, ">", func(key string, m message) error {
		if key == restoreKey {
			return errors.New("a restore has not been finished here; finish it first")
		}
		return addLine(w, backup.Settings, backupSetting{key, m.data})
	})
	if err != nil {
		return err
	}
	for s := range q.layout.shards {
		if err := q.scanWhole(ctx, recordStream(s), "r.>", w, backup.Records); err != nil {
			return err
		}
	}
	// After the records: a batch may have moved what has ended into its
	// segments meanwhile, and names those.
	if err := q.scanWhole(ctx, batchStream, batchSubject("*", "*"), w, backup.Batches); err != nil {
		return err
	}
	return w.Close()
}

func addLine(w *backup.Writer, kind string, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.Line(kind, line)
}

// scanWhole adds the messages of a stream, page by page. One that is replaced
// meanwhile comes again, later.
func (q *Queue) scanWhole(ctx context.Context, stream, filter string, w *backup.Writer, kind string) error {
	for seq := uint64(1); ; {
		page, more, err := q.batch(ctx, stream, batchRequest{Seq: seq, NextFor: filter, Batch: 256, MaxBytes: scanBytes})
		if err != nil {
			return err
		}
		for _, m := range page {
			seq = m.seq + 1
			if gone(m.header) || m.header.Get(headerOperation) != "" {
				continue
			}
			if err := w.Line(kind, m.data); err != nil {
				return err
			}
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
}

func copyLines(spool *os.File, w *backup.Writer) error {
	if _, err := spool.Seek(0, 0); err != nil {
		return fmt.Errorf("back up records: %w", err)
	}
	r, err := backup.NewReader(spool)
	for err == nil {
		var e backup.Entry
		if e, err = r.Next(); err != nil {
			break
		}
		for _, line := range e.Lines {
			if err := w.Line(e.Kind, line); err != nil {
				return err
			}
		}
	}
	if isEOF(err) {
		return nil
	}
	return fmt.Errorf("back up records: %w", err)
}

// backUpObjects writes the objects that are not done yet.
func (q *Queue) backUpObjects(ctx context.Context, w *backup.Writer, done map[Bucket]map[string]bool) error {
	for _, b := range []Bucket{Images, Inputs, Outputs} {
		var names []string
		err := q.objects(ctx, b, func(name string, _ time.Time) {
			// A part is written with its object.
			if !done[b][name] && !strings.Contains(name, "#") {
				done[b][name] = true
				names = append(names, name)
			}
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := q.backUpObject(ctx, w, b, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// backUpObject writes one object, unless it is gone by now. One of several
// parts that goes while it is written ends the backup.
func (q *Queue) backUpObject(ctx context.Context, w *backup.Writer, b Bucket, name string) error {
	r, obj, err := q.Open(ctx, b, name)
	if errors.Is(err, job.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	head := make([]byte, min(obj.Size, smallObject)+1)
	n, err := readFull(r, head)
	if err != nil {
		if _, statErr := q.Stat(ctx, b, name); errors.Is(statErr, job.ErrNotFound) {
			return nil
		}
		return err
	}
	return w.Object(backup.Object{Bucket: string(b), Name: name, Size: obj.Size, SHA256: obj.SHA256}, join(head[:n], r))
}
