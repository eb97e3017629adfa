package scheduler_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/backup"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// backUp is a whole backup of the world.
func (w *world) backUp() []byte {
	w.t.Helper()
	body, err := w.client.Backup(w.ctx)
	must(w.t, err)
	defer body.Close()
	data, err := io.ReadAll(body)
	must(w.t, err)
	if _, _, err := backup.Verify(bytes.NewReader(data)); err != nil {
		w.t.Fatal(err)
	}
	return data
}

func (w *world) restore(data []byte) (api.Restored, error) {
	return w.client.Restore(w.ctx, bytes.NewReader(data), int64(len(data)), nil)
}

// oldWorld has jobs in every state.
func oldWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	unpackStore(t, filepath.Join("..", "pkg", "queue", "testdata", "store-1.tar.gz"), dir)
	return newWorldIn(t, dir, nil)
}

// TestARestoredSystemAnswersForEveryJobOfTheBackup takes a backup of jobs in
// every state and carries all of them to their ends elsewhere.
func TestARestoredSystemAnswersForEveryJobOfTheBackup(t *testing.T) {
	old := oldWorld(t)
	old.tenant("acme", job.Share{Weight: 3})
	large := strings.Repeat("large ", 1<<20)
	_, err := old.queue.Put(old.ctx, queue.Outputs, "01980000-0000-7000-8000-000000000008/large", strings.NewReader(large))
	must(t, err)
	data := old.backUp()

	w := newWorld(t, nil)
	restored, err := w.restore(data)
	must(t, err)
	if restored.Records != 12 || restored.Settings < 2 || restored.Objects < 4 || restored.ID == "" {
		t.Errorf("restored %+v", restored)
	}
	must(t, w.queue.SetImage(w.ctx, queue.Image{Name: "python", Digest: digest, Source: "test", CreatedAt: time.Now()}))
	w.carryToTheEnd()
	if acme, err := w.client.Tenant(w.ctx, "acme"); err != nil || acme.Weight != 3 || len(acme.Tokens) != 1 {
		t.Errorf("tenant %+v, %v", acme, err)
	}
	object, _, err := w.queue.Open(w.ctx, queue.Outputs, "01980000-0000-7000-8000-000000000008/large")
	must(t, err)
	defer object.Close()
	if text, err := io.ReadAll(object); string(text) != large || err != nil {
		t.Errorf("the large object has %d bytes, %v", len(text), err)
	}
	if _, err := w.client.Submit(w.ctx, echo("x"), 20*time.Second); err != nil {
		t.Errorf("a new job: %v", err)
	}
}

// TestAJobThatRanDuringTheBackupRunsAgain: its attempt is lost, the backup
// knows nothing of its end.
func TestAJobThatRanDuringTheBackupRunsAgain(t *testing.T) {
	old := newWorld(t, nil)
	started, proceed := make(chan struct{}), make(chan struct{})
	old.work(1, func(job.Record) (job.State, *job.Result) {
		close(started)
		<-proceed
		return job.Failed, &job.Result{Verdict: job.Verdict{Blame: job.BlameProgram, Reason: job.Exited}}
	})
	j, err := old.client.Submit(old.ctx, echo("x"), 0)
	must(t, err)
	<-started
	data := old.backUp()
	close(proceed)

	w := newWorld(t, nil)
	_, err = w.restore(data)
	must(t, err)
	w.work(1, func(job.Record) (job.State, *job.Result) { return job.Succeeded, nil })
	got, err := w.client.Wait(w.ctx, j.ID)
	must(t, err)
	if got.State != job.Succeeded || len(got.Attempts) != 2 || got.Attempts[0].Outcome != job.Lost {
		t.Errorf("%s after %+v", got.State, got.Attempts)
	}
}

// TestARestoreThatWasCutOffIsFinishedByTheSameBackup cuts it off at several
// places; meanwhile no job is accepted and no other backup taken.
func TestARestoreThatWasCutOffIsFinishedByTheSameBackup(t *testing.T) {
	old := oldWorld(t)
	data, other := old.backUp(), old.backUp()
	w := newWorld(t, nil)
	for i := 1; i <= 3; i++ {
		r, err := backup.NewReader(io.MultiReader(bytes.NewReader(data[:i*len(data)/4]), iotest.ErrReader(errors.New("cut"))))
		must(t, err)
		if err := w.queue.RestoreBackup(w.ctx, r); !errors.Is(err, backup.ErrDamaged) {
			t.Fatalf("cut off at %d of 4: %v", i, err)
		}
	}
	w.until("jobs are refused", func() bool {
		status, header, _ := w.ask(http.MethodPost, "/v1/jobs", "", `{"image":"python","command":["true"]}`)
		return status == http.StatusServiceUnavailable && header.Get("Retry-After") != ""
	})
	if _, err := w.restore(other); problem(t, err).Status != http.StatusConflict {
		t.Errorf("another backup: %v", err)
	}
	_, err := w.restore(data)
	must(t, err)
	w.until("jobs are accepted", func() bool {
		status, _, _ := w.ask(http.MethodPost, "/v1/jobs", "", `{"image":"python","command":["true"]}`)
		return status == http.StatusAccepted
	})
	w.carryToTheEnd()
}

func TestARestoreIsRefusedWhereItWouldDoHarm(t *testing.T) {
	old := oldWorld(t)
	data := old.backUp()
	if _, err := old.restore(data); problem(t, err).Status != http.StatusConflict {
		t.Errorf("over a system with jobs: %v", err)
	}
	w := newWorld(t, nil)
	var later bytes.Buffer
	b, err := backup.NewWriter(&later, backup.Header{Layout: "99", Schema: job.Schema})
	must(t, err)
	must(t, b.Close())
	if _, err := w.restore(later.Bytes()); problem(t, err).Status != http.StatusUnprocessableEntity || !strings.Contains(err.Error(), "layout") {
		t.Errorf("of another layout: %v", err)
	}
	if _, err := w.restore([]byte(strings.Repeat("no backup", 1000))); problem(t, err).Status != http.StatusUnprocessableEntity {
		t.Errorf("of something else: %v", err)
	}
	acme := w.tenant("acme", job.Share{})
	if _, err := acme.Backup(w.ctx); problem(t, err).Status != http.StatusForbidden {
		t.Errorf("a backup by a tenant: %v", err)
	}
	if _, err := w.client.Submit(w.ctx, echo("x"), 0); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}
