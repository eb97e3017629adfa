package gvisor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// TestBadArchives gives the runtime archives that are not what was asked for.
// Each is an image fault, and the right archive works afterwards.
func TestBadArchives(t *testing.T) {
	reader, err := need.Images(t, "busybox")[0].Reader()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	for i := len(flipped) / 2; i < len(flipped)/2+4096; i++ {
		flipped[i] ^= 0xff
	}
	other := "sha256:" + strings.Repeat("1", 64)
	for name, c := range map[string]struct {
		digest  string // "" is the right one
		archive io.Reader
	}{
		"empty":         {"", strings.NewReader("")},
		"no archive":    {"", strings.NewReader(strings.Repeat("not a tar", 1000))},
		"cut off":       {"", bytes.NewReader(whole[:len(whole)/2])},
		"changed":       {"", bytes.NewReader(flipped)},
		"another image": {other, bytes.NewReader(whole)},
		"fails to read": {"", io.MultiReader(bytes.NewReader(whole[:10_000]), broken{})},
		"no digest":     {"latest", bytes.NewReader(whole)},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			image := h.image(t, "busybox")
			bad := image
			if c.digest != "" {
				bad.Digest = c.digest
			}
			h.override = c.archive
			box, err := h.runtime.Prepare(t.Context(), sandboxtest.Task(sandboxtest.Sh(bad, "exit 0")))
			if !errors.Is(err, job.ErrImage) {
				t.Errorf("error is %v", err)
			}
			if err == nil {
				sandboxtest.Close(t, box)
			}
			h.override = nil
			sandboxtest.Must(t, h.runtime, sandboxtest.Sh(image, "exit 0")).Want(t, "succeeded none exited")
			h.mustBeClean(t)
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the line is cut") }

// TestFetchEndsWithTheLastWaiter cancels the only job that needs an image in
// the middle of the transfer.
func TestFetchEndsWithTheLastWaiter(t *testing.T) {
	h := open(t)
	image := h.image(t, "busybox")
	ctx, cancel := context.WithCancelCause(t.Context())
	stuck := &stuckReader{reached: make(chan struct{}), closed: make(chan struct{})}
	h.override = stuck
	go func() {
		<-stuck.reached
		cancel(worker.ErrCanceled)
	}()
	_, err := h.runtime.Prepare(ctx, sandboxtest.Task(sandboxtest.Sh(image, "exit 0")))
	if !errors.Is(err, worker.ErrCanceled) {
		t.Errorf("error is %v", err)
	}
	h.override = nil
	sandboxtest.Must(t, h.runtime, sandboxtest.Sh(image, "exit 0")).Want(t, "succeeded none exited")
}

// stuckReader says when it is read, and never answers before it is closed.
type stuckReader struct{ reached, closed chan struct{} }

func (s *stuckReader) Read([]byte) (int, error) {
	close(s.reached)
	<-s.closed
	return 0, errors.New("closed")
}

func (s *stuckReader) Close() error {
	close(s.closed)
	return nil
}

// TestAPlacedImageIsReadyForItsFirstJob: nothing is fetched after Place.
func TestAPlacedImageIsReadyForItsFirstJob(t *testing.T) {
	h := open(t)
	image := h.image(t, "busybox")
	if err := h.runtime.Place(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	h.override = broken{}
	box, err := h.runtime.Prepare(t.Context(), sandboxtest.Task(sandboxtest.Sh(image, "exit 0")))
	if err != nil {
		t.Fatal(err)
	}
	sandboxtest.Close(t, box)
	missing := job.Image{Name: "missing", Digest: "sha256:" + strings.Repeat("2", 64)}
	if err := h.runtime.Place(t.Context(), missing); !errors.Is(err, job.ErrImage) {
		t.Errorf("an image that is not to be had: %v", err)
	}
}
