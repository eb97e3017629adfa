package gvisor_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/worker"
	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

func TestExercise(t *testing.T) {
	h := open(t)
	sandboxtest.Exercise(t, func(*testing.T) worker.Runtime { return h.runtime }, h.image(t, "busybox"))
	h.mustBeClean(t)
}
