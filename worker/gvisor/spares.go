package gvisor

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

const (
	// spareIdle is how long sandboxes are kept ready for jobs of a shape that
	// do not come any more.
	spareIdle = 5 * time.Minute
	// spareCalm is how long a shape must not have been asked for before all its
	// spares make room for those of another one.
	spareCalm = 10 * time.Second
	// spareLook is how often the host's memory and the idle times are looked at.
	spareLook = 5 * time.Second
	// spareKinds is how many shapes are remembered.
	spareKinds = 64
	// After spareFailures boots in a row that failed nothing is booted ahead
	// for spareBreak, which doubles up to spareBreakMost.
	spareFailures              = 3
	spareBreak, spareBreakMost = 30 * time.Second, 5 * time.Minute
)

// shape is what of a job is settled when its sandbox boots.
type shape struct {
	image  job.Image
	cpu    float64
	memory job.Bytes
	pids   int
	disk   job.Bytes
}

func shapeOf(spec job.Spec) shape {
	l := spec.Limits
	return shape{image: spec.Image, cpu: l.CPU, memory: l.Memory, pids: l.PIDs, disk: l.Disk}
}

func (s shape) limits() job.Limits {
	return job.Limits{CPU: s.cpu, Memory: s.memory, PIDs: s.pids, Disk: s.disk}
}

// spares are sandboxes that were booted before their job came. Each is for one
// job: who takes one has it alone, and it is never given back.
type spares struct {
	most   int // of all shapes together
	boot   func(ctx context.Context, id string, of shape) (*sandbox, error)
	short  func() bool // the host is short of memory
	logger *slog.Logger
	wake   chan struct{}

	mu     sync.Mutex
	over   bool // none are kept any more
	kinds  map[shape]*kind
	trash  []*sandbox
	counts job.Spares
	failed int // boots in a row
	breaks time.Duration
	resume time.Time
}

// kind is what is kept of one shape.
type kind struct {
	want    int // how many are to be ready
	booting int
	idle    []spare // the oldest first
	asked   time.Time
}

type spare struct {
	*sandbox
	since time.Time
}

func newSpares(most int, logger *slog.Logger, boot func(context.Context, string, shape) (*sandbox, error)) *spares {
	return &spares{most: most, boot: boot, short: shortOfMemory, logger: logger, wake: make(chan struct{}, 1), kinds: map[shape]*kind{}}
}

// take is a sandbox of that shape that is ready, nil if there is none.
func (p *spares) take(of shape) *sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || p.most == 0 {
		return nil
	}
	defer p.nudge()
	k := p.kinds[of]
	if k == nil {
		if len(p.kinds) >= spareKinds {
			p.forget(p.stalest())
		}
		k = &kind{}
		p.kinds[of] = k
	}
	k.asked = time.Now()
	for len(k.idle) > 0 {
		s := k.idle[0].sandbox
		k.idle = k.idle[1:]
		if s.alive() {
			p.counts.Hits++
			return s
		}
		p.drop(s)
	}
	p.counts.Misses++
	k.want = min(k.want+1, p.most)
	return nil
}

// stalest is the shape that was not asked for longest. The caller holds the
// lock, and there is one.
func (p *spares) stalest() (of shape) {
	var oldest *kind
	for each, k := range p.kinds {
		if oldest == nil || k.asked.Before(oldest.asked) {
			oldest, of = k, each
		}
	}
	return of
}

// nudge wakes a filler.
func (p *spares) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// drop has a sandbox removed. The caller holds the lock.
func (p *spares) drop(s *sandbox) {
	p.counts.Dropped++
	p.trash = append(p.trash, s)
}

// look is what there is.
func (p *spares) look() job.Spares {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.counts
	for _, k := range p.kinds {
		c.Ready += len(k.idle)
		for _, s := range k.idle {
			c.Oldest = max(c.Oldest, job.MillisOf(time.Since(s.since)))
		}
	}
	return c
}

// run boots ahead what is wanted until ctx ends, then removes all of it.
func (p *spares) run(ctx context.Context) {
	var fillers sync.WaitGroup
	for range max(1, min(runtime.NumCPU()/2, p.most)) {
		fillers.Go(func() { p.fill(ctx) })
	}
	fillers.Wait()
	p.mu.Lock()
	p.over = true
	for of := range p.kinds {
		p.forget(of)
	}
	p.mu.Unlock()
	p.empty(context.WithoutCancel(ctx))
}

// fill boots one sandbox after the other.
func (p *spares) fill(ctx context.Context) {
	tick := time.NewTicker(spareLook)
	defer tick.Stop()
	for ctx.Err() == nil {
		p.empty(ctx)
		if of, k := p.next(time.Now()); k != nil {
			p.add(ctx, of, k)
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-tick.C:
			p.tidy(time.Now())
		}
	}
}

// next is the shape that lacks a sandbox and was asked for last, if there is
// room; another filler is told to look for more.
func (p *spares) next(now time.Time) (of shape, best *kind) {
	short := p.short()
	p.mu.Lock()
	defer p.mu.Unlock()
	if short || now.Before(p.resume) {
		return of, nil
	}
	for each, k := range p.kinds {
		if len(k.idle)+k.booting < k.want && (best == nil || k.asked.After(best.asked)) {
			best, of = k, each
		}
	}
	if best == nil || !p.roomFor(best, now) {
		return of, nil
	}
	best.booting++
	p.nudge()
	return of, best
}

// roomFor makes room for one more, if need be at the cost of a shape that was
// not asked for lately, or has more. The caller holds the lock.
func (p *spares) roomFor(k *kind, now time.Time) bool {
	n := 0
	var oldest *kind
	for _, other := range p.kinds {
		n += len(other.idle) + other.booting
		gives := len(other.idle) > 0 && now.Sub(other.asked) > spareCalm || len(other.idle) > len(k.idle)+k.booting+1
		if other != k && gives && (oldest == nil || other.asked.Before(oldest.asked)) {
			oldest = other
		}
	}
	if n < p.most {
		return true
	}
	if oldest == nil {
		return false
	}
	p.drop(oldest.idle[0].sandbox)
	oldest.idle = oldest.idle[1:]
	oldest.want--
	return true
}

// add boots a sandbox.
func (p *spares) add(ctx context.Context, of shape, k *kind) {
	s, err := p.boot(ctx, fmt.Sprintf("spare-%016x", rand.Uint64()), of)
	p.mu.Lock()
	defer p.mu.Unlock()
	k.booting--
	switch {
	case err == nil && p.kinds[of] != k: // forgotten meanwhile
		p.drop(s)
	case err == nil:
		k.idle = append(k.idle, spare{s, time.Now()})
		p.failed, p.breaks = 0, 0
	case ctx.Err() == nil:
		p.counts.Failed++
		if p.failed++; p.failed >= spareFailures {
			p.breaks = min(max(2*p.breaks, spareBreak), spareBreakMost)
			p.resume, p.failed = time.Now().Add(p.breaks), 0
			p.logger.Warn("no sandboxes are booted ahead for a while, since that fails", "pause", p.breaks, "error", err)
		}
	}
}

// tidy drops what nobody asks for any more, and everything when the host is
// short of memory.
func (p *spares) tidy(now time.Time) {
	short := p.short()
	p.mu.Lock()
	defer p.mu.Unlock()
	for of, k := range p.kinds {
		if short || now.Sub(k.asked) > spareIdle {
			p.forget(of)
			continue
		}
		k.idle = slices.DeleteFunc(k.idle, func(s spare) bool {
			dead := !s.alive()
			if dead {
				p.drop(s.sandbox)
			}
			return dead
		})
	}
}

// forget drops all of a shape. The caller holds the lock.
func (p *spares) forget(of shape) {
	for _, s := range p.kinds[of].idle {
		p.drop(s.sandbox)
	}
	delete(p.kinds, of)
}

// empty removes what was dropped.
func (p *spares) empty(ctx context.Context) {
	for {
		p.mu.Lock()
		if len(p.trash) == 0 {
			p.mu.Unlock()
			return
		}
		s := p.trash[0]
		p.trash = p.trash[1:]
		p.mu.Unlock()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
		if err := s.Close(closing); err != nil {
			p.logger.Warn("a sandbox that was booted ahead leaves something behind", "sandbox", s.id, "error", err)
		}
		cancel()
	}
}

// shortOfMemory reports whether the host has little memory left.
func shortOfMemory() bool {
	available, total := memoryOf("MemAvailable"), memoryOf("MemTotal")
	return available > 0 && available < max(total/16, int64(256*job.MiB)/1024)
}
