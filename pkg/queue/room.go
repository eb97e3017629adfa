package queue

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Accepts stop before the disk of the store is full: what was accepted still
// needs room for its claims and its results, and a NATS server whose disk is
// full stops writing altogether until it is started again.

// room says how full the disk of the store is.
type room struct {
	// dir is where the store is; empty if this process cannot see it.
	dir string
	// floor is how many bytes must be free for a job to be accepted; zero for
	// the default.
	floor int64
}

// defaultFloor is 2 % of the disk, within what is sensible for small and large
// ones.
func defaultFloor(total int64) int64 {
	const mib = 1 << 20
	return min(max(total/50, 32*mib), 1024*mib, total/4)
}

// left is how many bytes are free, and how many must be.
func (r room) left() (free, floor int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(r.dir, &s); err != nil {
		return 0, 0, fmt.Errorf("look at the disk of the store %s: %w", r.dir, err)
	}
	floor = r.floor
	if floor == 0 {
		floor = defaultFloor(int64(s.Blocks) * s.Bsize)
	}
	return int64(s.Bavail) * s.Bsize, floor, nil
}

// check is a *FullError while too little is left.
func (r room) check() error {
	if r.dir == "" {
		return nil
	}
	free, floor, err := r.left()
	if err != nil || free >= floor {
		return err
	}
	return &FullError{
		What:       fmt.Sprintf("the disk of the queue's store has %s left, and jobs are accepted from %s on", rounded(free), rounded(floor)),
		RetryAfter: 5 * time.Second,
	}
}

// rounded is a size for people.
func rounded(n int64) job.Bytes {
	if n >= int64(job.MiB) {
		n -= n % int64(job.MiB)
	}
	return job.Bytes(n)
}

// trouble is what the server last said of a store that it could not write.
type trouble struct {
	mu  sync.Mutex
	why string
	at  time.Time
}

// troubleTime is for how long a refusal counts: whoever tries to write is
// refused again.
const troubleTime = 15 * time.Second

func (t *trouble) note(why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why, t.at = why, time.Now()
}

func (t *trouble) now() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.at) > troubleTime {
		return ""
	}
	return t.why
}

// Writable reports why the store takes no new jobs for want of room on its
// disk, or because the server could not write; nil if it takes them.
func (q *Queue) Writable() error {
	if err := q.room.check(); err != nil {
		return err
	}
	if why := q.trouble.now(); why != "" {
		return &FullError{What: "the NATS server cannot write its store: " + why, RetryAfter: 5 * time.Second}
	}
	return nil
}

// sync has everything of the store written to its disk. A server that syncs by
// the clock does so for messages alone: what describes a stream or a consumer
// is written when the file system gets round to it, up to half a minute later,
// and without that the server does not find the stream after a loss of power.
func (r room) sync() error {
	if r.dir == "" {
		return nil
	}
	dir, err := os.Open(r.dir)
	if errors.Is(err, os.ErrPermission) { // another user's: all disks then
		unix.Sync()
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync the store: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the store %s: %w", r.dir, err)
	}
	return nil
}
