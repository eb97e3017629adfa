package gvisor_test

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/sandlot-dev/sandlot/worker/sandboxtest"
)

// TestFullOutputUnderLoad runs more jobs at once than the host has cores, each
// with some megabytes on both streams, and compares every byte.
func TestFullOutputUnderLoad(t *testing.T) {
	h := open(t)
	image := h.image(t, "busybox")
	const script = `yes 0123456789abcdef | head -c 2500000; yes "$0" | head -c 2500000 >&2`
	jobs := 40
	if testing.Short() {
		jobs = 8
	}
	want := sha256.Sum256(repeat("0123456789abcdef\n", 2_500_000))
	slots := make(chan struct{}, 4)
	t.Run("at once", func(t *testing.T) {
		for i := range jobs {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				word := fmt.Sprintf("job number %d", i)
				spec := sandboxtest.Sh(image, script)
				spec.Steps[0].Command = append(spec.Steps[0].Command, word)
				a := sandboxtest.Must(t, h.runtime, spec)
				a.Want(t, "succeeded none exited")
				if sha256.Sum256([]byte(a.Stdout(0))) != want || a.Stderr(0) != string(repeat(word+"\n", 2_500_000)) {
					t.Errorf("%d and %d bytes came", len(a.Stdout(0)), len(a.Stderr(0)))
				}
			})
		}
	})
	h.mustBeClean(t)
}

func repeat(text string, size int) []byte {
	var all []byte
	for len(all) < size {
		all = append(all, text...)
	}
	return all[:size]
}
