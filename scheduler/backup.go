package scheduler

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/backup"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// handleBackup sends all state, while everything goes on. What is cut off has
// no end, and is known by that.
func (s *Scheduler) handleBackup(w http.ResponseWriter, r *http.Request) error {
	if s.settings.restoring() {
		return restoring()
	}
	w.Header().Set("Content-Type", typeTar)
	out, err := backup.NewWriter(patientWriter{w}, s.Queue.NewBackup(s.Version))
	if err == nil {
		err = s.Queue.Backup(r.Context(), out, s.TempDir)
	}
	if err == nil {
		err = out.Close()
	}
	return err
}

// patientWriter bounds the time that each piece may take to be read.
type patientWriter struct{ w http.ResponseWriter }

func (p patientWriter) Write(data []byte) (int, error) {
	soon(p.w)
	return p.w.Write(data)
}

// handleRestore fills this system from a backup.
func (s *Scheduler) handleRestore(w http.ResponseWriter, r *http.Request) error {
	// The body takes as long as it takes, but not a minute for nothing.
	body := &patientReader{body: r.Body, control: http.NewResponseController(w), each: s.BodyTime}
	in, err := backup.NewReader(body)
	if err == nil {
		err = s.Queue.RestoreBackup(r.Context(), in)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, body) // what fills the last block
	}
	switch {
	case errors.Is(err, backup.ErrDamaged):
		return api.NewProblem(http.StatusUnprocessableEntity, api.TypeInvalid, "%v", err)
	case errors.Is(err, backup.ErrFormat):
		return api.NewProblem(http.StatusUnprocessableEntity, api.TypeSchema, "%v", err)
	case errors.Is(err, queue.ErrNotEmpty):
		return api.NewProblem(http.StatusConflict, api.TypeConflict, "%v; a backup is restored into a system without jobs", err)
	case err != nil:
		return err
	}
	return writeJSON(w, http.StatusOK, api.Restored{ID: in.Header.ID, CreatedAt: in.Header.CreatedAt, Counts: in.Counts()})
}

// restoring is what a submit is told while the system is being filled: a job
// of the same key might be in the backup.
func restoring() *api.Problem {
	return busy(http.StatusServiceUnavailable, api.TypeUnavailable, 5*time.Second, "a backup is being restored here; if that was cut off, restore the same backup again")
}

// restoring reports whether a restore has begun and not ended.
func (s *settings) restoring() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.filling
}

// mayAccept refuses jobs while a backup is being restored.
func (s *Scheduler) mayAccept() error {
	if s.settings.restoring() {
		return restoring()
	}
	return nil
}
