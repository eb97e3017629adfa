package scripted_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/scripted"
	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

var image = job.Image{Name: "scripted", Digest: "sha256:1111111111111111111111111111111111111111111111111111111111111111"}

func TestScriptedSandboxPassesTheSuite(t *testing.T) {
	sandboxtest.Exercise(t, func(*testing.T) worker.Runtime { return new(scripted.Runtime) }, image)
}

func TestWordsForWhatCannotBeMadeToHappen(t *testing.T) {
	for script, verdict := range map[string]string{
		"echo before; hog":   "failed limit out_of_memory",
		"echo before; crash": "dead platform sandbox_fault",
		"echo before; swarm": "failed limit pids_limit",
	} {
		runtime := new(scripted.Runtime)
		a := sandboxtest.Run(t, runtime, sandboxtest.Sh(image, script))
		a.Want(t, verdict)
		if n := runtime.Open(); n != 0 {
			t.Errorf("%s: %d sandboxes are open", script, n)
		}
	}
}
