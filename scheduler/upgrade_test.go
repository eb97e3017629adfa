package scheduler_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// TestAStoreOfSchema1GoesOnAsIfNothingHadHappened opens what the release
// before wrote, jobs of every state in it, some of them in the hands of a
// worker that is no more, and carries all of them to their ends.
func TestAStoreOfSchema1GoesOnAsIfNothingHadHappened(t *testing.T) {
	dir := t.TempDir()
	unpackStore(t, filepath.Join("..", "pkg", "queue", "testdata", "store-1.tar.gz"), dir)
	w := newWorldIn(t, dir, nil)
	w.carryToTheEnd()
}

// carryToTheEnd ends every job of the store of schema 1, and looks at what
// has become of them.
func (w *world) carryToTheEnd() {
	t := w.t
	t.Helper()
	var err error
	id := func(n int) string { return fmt.Sprintf("01980000-0000-7000-8000-%012d", n) }
	ended := map[int]job.State{7: job.Succeeded, 8: job.Failed, 9: job.Canceled, 10: job.Expired, 11: job.Dead}
	for n, state := range ended {
		j, err := w.client.Get(w.ctx, id(n))
		if err != nil || j.State != state || j.Labels["n"] != fmt.Sprint(n) || j.Verdict == nil {
			t.Errorf("job %d: %+v, %v", n, j, err)
		}
	}
	whole, err := w.client.Output(w.ctx, id(7), 0, "stdout")
	must(t, err)
	text, err := io.ReadAll(whole)
	whole.Close()
	if string(text) != "hello from schema 1\n" || err != nil {
		t.Errorf("output %q, %v", text, err)
	}

	if j, err := w.client.Get(w.ctx, id(6)); err != nil || j.State != job.Retrying {
		t.Errorf("the job that waits until 2100: %+v, %v", j, err)
	}
	j, err := w.client.Cancel(w.ctx, id(6))
	if err != nil || j.State != job.Canceled {
		t.Errorf("canceled: %+v, %v", j, err)
	}

	w.work(2, func(job.Record) (job.State, *job.Result) { return job.Succeeded, nil })
	for n, want := range map[int]struct {
		state   job.State
		attempt int
	}{
		1: {job.Succeeded, 1}, 2: {job.Succeeded, 1}, 3: {job.Succeeded, 2}, 4: {job.Canceled, 1}, 5: {job.Succeeded, 2}, 12: {job.Succeeded, 1},
	} {
		var j api.Job
		w.until(fmt.Sprintf("job %d has ended", n), func() bool {
			j, err = w.client.Get(w.ctx, id(n))
			must(t, err)
			return j.State.Final()
		})
		if j.State != want.state || len(j.Attempts) != want.attempt {
			t.Errorf("job %d is %s after %d attempts, want %+v", n, j.State, len(j.Attempts), want)
		}
		if rec, err := w.queue.Get(w.ctx, job.DefaultTenant, id(n)); err != nil || rec.Schema != job.Schema {
			t.Errorf("record of job %d has schema %d, %v", n, rec.Schema, err)
		}
	}
}

func unpackStore(t *testing.T, archive, dir string) {
	t.Helper()
	file, err := os.Open(archive)
	must(t, err)
	defer file.Close()
	plain, err := gzip.NewReader(file)
	must(t, err)
	for entries := tar.NewReader(plain); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			must(t, os.MkdirAll(path, 0o700))
			continue
		}
		out, err := os.Create(path)
		must(t, err)
		_, err = io.Copy(out, entries)
		must(t, errors.Join(err, out.Close()))
		_ = os.Chtimes(path, time.Time{}, h.ModTime)
	}
}
