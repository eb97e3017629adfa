package worker

import (
	"slices"
	"sync"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// warmMost bounds how many images are told of.
const warmMost = 256

// warm are the images at hand: those that the worker was made with and those
// that it has made sandboxes of since, the latest last.
type warm struct {
	mu      sync.Mutex
	digests []string
}

// add notes an image; false if it is known.
func (w *warm) add(digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if digest == "" || slices.Contains(w.digests, digest) {
		return false
	}
	w.digests = append(w.digests, digest)
	if n := len(w.digests); n > warmMost {
		w.digests = slices.Delete(w.digests, 0, n-warmMost)
	}
	return true
}

func (w *warm) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.digests)
}

// warmed tells the others that an image is at hand.
func (w *Worker) warmed(place *queue.Registration, digest string) {
	if w.images.add(digest) {
		place.Update(func(me *queue.Worker) { me.Images = w.images.list() })
	}
}
