package queue

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Change is one change of one record, as Follow sees it.
type Change struct {
	Summary
	// Seq orders the changes of one job, and of its shard.
	Seq uint64
	// Size is that of the record, in bytes.
	Size int
	// Removed: the record is gone, expired or removed; only ID, Tenant and
	// Seq are set.
	Removed bool
}

// Follow calls fn for every record there is and then for every change, one
// call at a time and in order per job, until ctx ends. caughtUp is called
// once, when all that was there at the start has been passed. It survives
// reconnects. A record that changes while it is not looked at shows up once,
// as it then is; one that vanishes during an absence of more than a minute
// is not reported: mind ExpiresAt.
func (q *Queue) Follow(ctx context.Context, fn func(Change), caughtUp func()) error {
	var mu sync.Mutex
	left := q.layout.shards
	group, ctx := errgroup.WithContext(ctx)
	for s := range q.layout.shards {
		group.Go(func() error {
			return q.tail(ctx, tail{
				stream: recordStream(s), filter: "r.>", headersOnly: true,
				each: func(m message) error {
					mu.Lock()
					defer mu.Unlock()
					if c, ok := q.change(m); ok {
						fn(c)
						q.wakers.wake()
					}
					return nil
				},
				caughtUp: func() error {
					mu.Lock()
					defer mu.Unlock()
					if left--; left == 0 && caughtUp != nil {
						caughtUp()
					}
					return nil
				},
			})
		})
	}
	return group.Wait()
}

func (q *Queue) change(m message) (Change, bool) {
	if gone(m.header) {
		parts := strings.Split(m.subject, ".") // r.<shard>.<tenant>.<job>
		if len(parts) != 4 {
			return Change{}, false
		}
		return Change{Summary: Summary{Tenant: parts[2], ID: parts[3]}, Seq: m.seq, Removed: true}, true
	}
	sum, err := decodeSummary(m.header)
	if err != nil {
		q.log.Error("unreadable record", "subject", m.subject, "error", err)
		return Change{}, false
	}
	size, _ := strconv.Atoi(m.header.Get(headerSize)) // of headers only; else 0
	return Change{Summary: sum, Seq: m.seq, Size: size}, true
}
