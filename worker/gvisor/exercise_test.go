package gvisor_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// TestExercise asks the same of sandboxes whose root is an EROFS file and of
// those whose root is a directory, as on hosts that cannot make such files.
func TestExercise(t *testing.T) {
	for name, plain := range map[string]bool{"root is an EROFS file": false, "root is a directory": true} {
		t.Run(name, func(t *testing.T) {
			h := &host{dir: shortDir(t), archives: map[string]image.Archive{}, plain: plain}
			h.start(t)
			sandboxtest.Exercise(t, func(*testing.T) worker.Runtime { return h.runtime }, h.image(t, "busybox"))
			h.mustBeClean(t)
		})
	}
}
