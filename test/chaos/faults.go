package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// fault is one thing that goes wrong: what, to whom, when, and for how long.
type fault struct {
	At   time.Duration `json:"at"`
	For  time.Duration `json:"for"`
	What string        `json:"what"`
	Whom string        `json:"whom"`
	// Peer is which node the network to is bad; -1 is all of them.
	Peer int `json:"peer"`
	// Reset: what was held back is lost when the network is good again.
	Reset bool `json:"reset,omitempty"`
	// Delay is how slow a slow network is.
	Delay time.Duration `json:"delay,omitempty"`
}

// What can happen.
const (
	faultKill    = "kill"    // SIGKILL, back after a while
	faultPause   = "pause"   // SIGSTOP, SIGCONT after a while
	faultRestart = "restart" // SIGTERM, back when it has ended; a worker drains
	faultCut     = "cut"     // connections end, new ones are refused
	faultStall   = "stall"   // the network keeps everything to itself
	faultDeaf    = "deaf"    // answers do not arrive
	faultMute    = "mute"    // questions do not arrive
	faultSlow    = "slow"    // everything takes its time
	faultApart   = "apart"   // a node and the others do not hear each other
)

// plan is what goes wrong under a seed, in order of time. The same seed plans
// the same, whatever the machine makes of it.
func plan(seed uint64, s setup, length time.Duration) []fault {
	r := rand.New(rand.NewPCG(seed, 0xc4a05))
	busy := map[string]time.Duration{} // until when somebody is in trouble
	var all []fault
	for at := time.Second; at < length; at += time.Duration(700+r.IntN(1800)) * time.Millisecond {
		f := oneFault(r, s)
		f.At = at
		// The servers are one: two nodes in trouble would have no quorum.
		whom := f.Whom
		if whom[0] == 'n' {
			whom = "nodes"
		}
		// A moment of peace between two troubles of one process.
		if at < busy[whom] {
			continue
		}
		f.For = min(f.For, max(length-at, 500*time.Millisecond))
		busy[whom] = at + f.For + 1500*time.Millisecond
		all = append(all, f)
	}
	return all
}

// oneFault draws a fault.
func oneFault(r *rand.Rand, s setup) fault {
	f := fault{Peer: -1, Reset: r.IntN(2) == 0}
	brief := time.Duration(200+r.IntN(2800)) * time.Millisecond
	// About the limits: a worker gives up after 8 s and is given up after 10,
	// a lease lasts 8.
	long := time.Duration(7000+r.IntN(6000)) * time.Millisecond
	f.For = brief
	kinds := []string{faultKill, faultKill, faultPause, faultRestart, faultCut, faultStall, faultDeaf, faultMute, faultSlow}
	switch n := r.IntN(10); {
	case n < 2:
		f.Whom = fmt.Sprintf("nats%d", r.IntN(s.Nodes))
		kinds = []string{faultKill, faultKill, faultPause, faultRestart}
		if s.Nodes > 1 {
			kinds = append(kinds, faultApart, faultApart)
		}
	case n < 5:
		f.Whom = fmt.Sprintf("s%d", r.IntN(s.Schedulers))
	default:
		f.Whom = fmt.Sprintf("w%d", r.IntN(s.Workers))
	}
	f.What = kinds[r.IntN(len(kinds))]
	switch f.What {
	case faultPause, faultStall, faultDeaf, faultMute, faultCut, faultApart:
		if r.IntN(3) == 0 {
			f.For = long
		}
	case faultSlow:
		f.For, f.Delay = 2*brief, time.Duration(20+r.IntN(200))*time.Millisecond
	}
	if s.Nodes > 1 && r.IntN(3) == 0 {
		f.Peer = r.IntN(s.Nodes)
	}
	return f
}

// trouble has faults happen.
type trouble struct {
	c    *cluster
	file *os.File
	mu   sync.Mutex
}

func newTrouble(c *cluster) (*trouble, error) {
	file, err := os.Create(filepath.Join(c.Out, "faults.jsonl"))
	return &trouble{c: c, file: file}, err
}

// note writes down what happens when.
func (t *trouble) note(f fault, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line, _ := json.Marshal(map[string]any{"time": time.Now(), "event": what, "fault": f}) // always valid
	_, _ = t.file.Write(append(line, '\n'))
}

// run has all faults happen, each healed when its time is over or ctx ends,
// and returns when all is well again.
func (t *trouble) run(ctx context.Context, faults []fault) error {
	begun := time.Now()
	var all sync.WaitGroup
	var mu sync.Mutex
	var first error
	for _, f := range faults {
		if sleep(ctx, time.Until(begun.Add(f.At))) != nil {
			break
		}
		all.Go(func() {
			t.note(f, "begin")
			err := t.cause(ctx, f)
			t.note(f, "end")
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = err
			}
		})
	}
	all.Wait()
	return first
}

// cause has one fault happen and heals it.
func (t *trouble) cause(ctx context.Context, f fault) error {
	m, links := t.whom(f)
	switch f.What {
	case faultKill:
		m.kill()
		_ = sleep(ctx, f.For)
		return m.start()
	case faultRestart:
		m.stop(20 * time.Second)
		return m.start()
	case faultPause:
		m.pause()
		_ = sleep(ctx, f.For)
		m.resume()
		return nil
	}
	bad := map[string]mode{
		faultCut: {cut: true}, faultStall: {up: true, down: true}, faultApart: {cut: !f.Reset, up: true, down: true},
		faultDeaf: {down: true}, faultMute: {up: true}, faultSlow: {},
	}[f.What]
	for _, l := range links {
		l.set(bad, f.Delay, false)
	}
	_ = sleep(ctx, f.For)
	for _, l := range links {
		l.heal(f.Reset)
	}
	return nil
}

// whom finds the process of a fault, and the part of its network.
func (t *trouble) whom(f fault) (*member, []*link) {
	for i, n := range t.c.nodes {
		if n.name != f.Whom {
			continue
		}
		var links []*link
		for _, l := range n.routes {
			links = append(links, l)
		}
		for _, other := range t.c.nodes {
			if l := other.routes[i]; l != nil {
				links = append(links, l)
			}
		}
		return n.member, links
	}
	var found *client
	for _, g := range t.c.schedulers {
		if g.name == f.Whom {
			found = &g.client
		}
	}
	for _, w := range t.c.workers {
		if w.name == f.Whom {
			found = w
		}
	}
	if f.Peer >= 0 {
		return found.member, found.links[f.Peer : f.Peer+1]
	}
	return found.member, found.links
}

// heal makes all well, whatever the faults left.
func (t *trouble) heal() error {
	for _, l := range t.c.links() {
		l.heal(false)
	}
	for _, m := range t.c.members() {
		m.resume()
		if m.fault() == nil {
			if err := m.start(); err != nil {
				return err
			}
		}
	}
	return t.file.Close()
}
