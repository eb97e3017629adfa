package queue_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// TestNoJobIsAcceptedBelowTheFloor asks for more room than any disk has.
func TestNoJobIsAcceptedBelowTheFloor(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	if err := open(t, queue.Config{Server: server, Name: "roomy", MinFree: 1}).Writable(); err != nil {
		t.Errorf("with room: %v", err)
	}
	q := open(t, queue.Config{Server: server, Name: "narrow", MinFree: 1 << 60})
	_, _, err := q.Accept(within(t), spec(newID()))
	var full *queue.FullError
	if !errors.As(err, &full) || full.Lane || full.RetryAfter <= 0 || !strings.Contains(err.Error(), "the disk of the queue's store has ") {
		t.Errorf("accept below the floor: %v", err)
	}
	if err := q.Writable(); !errors.Is(err, job.ErrFull) {
		t.Errorf("it says of itself: %v", err)
	}
	for _, a := range q.AcceptMany(within(t), []job.Record{spec(newID()), spec(newID())}) {
		if !errors.Is(a.Err, job.ErrFull) {
			t.Errorf("accept of many below the floor: %v", a.Err)
		}
	}
}

// TestStoreThatCannotBeSeenIsSaid wants a wrong directory named.
func TestStoreThatCannotBeSeenIsSaid(t *testing.T) {
	_, err := queue.Open(within(t), queue.Config{
		Server: start(t, queue.ServerConfig{}), Name: "blind", StoreDir: "/no/such/store", Logger: logger(t),
	})
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "/no/such/store") {
		t.Errorf("open: %v", err)
	}
}
