package gvisor_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// TestExercise asks the same of sandboxes of either runtime, and of those whose
// root is an EROFS file and those whose root is a directory, as on hosts that
// cannot make such files.
func TestExercise(t *testing.T) {
	for name, how := range map[string]*host{
		"stock, root is an EROFS file":    {choice: gvisor.Stock},
		"stock, root is a directory":      {choice: gvisor.Stock, plain: true},
		"resident, root is an EROFS file": {choice: gvisor.Resident},
		"resident, root is a directory":   {choice: gvisor.Resident, plain: true},
		"stock, booted ahead":             {choice: gvisor.Stock, spares: 3},
		"resident, booted ahead":          {choice: gvisor.Resident, spares: 3},
	} {
		t.Run(name, func(t *testing.T) {
			h := openWith(t, how)
			sandboxtest.Exercise(t, func(*testing.T) worker.Runtime { return h.runtime }, h.image(t, "busybox"))
			if c := h.runtime.Spares(); h.spares > 0 && c.Hits == 0 {
				t.Errorf("no sandbox was ready ahead of its job: %+v", c)
			}
			h.stopSpares()
			h.mustBeClean(t)
		})
	}
}
