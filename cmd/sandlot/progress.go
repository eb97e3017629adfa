package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// progress tells on stderr how far a batch is: a bar that redraws itself on
// a screen, a line every few seconds elsewhere.
type progress struct {
	w      io.Writer
	screen bool
	p      paint
	every  time.Duration
	begin  time.Time
	stop   chan struct{}
	ended  chan struct{}

	mu     sync.Mutex
	total  int
	done   int
	before int // of done: those of an earlier run
	counts map[string]int
}

// newProgress starts to tell. Close stops it and prints the last state.
func newProgress(w io.Writer, total int) *progress {
	p := &progress{
		w: w, screen: isTerminal(w), p: painter(w), every: 5 * time.Second,
		begin: time.Now(), total: total, counts: map[string]int{},
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	if p.screen {
		p.every = 100 * time.Millisecond
	}
	go p.tell()
	return p
}

// add counts one job that ended, under its verdict.
func (p *progress) add(verdict string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.counts[verdict]++
}

// addMany counts n jobs under one verdict.
func (p *progress) addMany(verdict string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.before += n
	p.counts[verdict] += n
}

// say prints a line of its own, above the bar.
func (p *progress) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.screen {
		line = "\r\x1b[K" + line
	}
	fmt.Fprintln(p.w, line)
}

// Close prints how it ended.
func (p *progress) Close() {
	close(p.stop)
	<-p.ended
	p.print()
	if p.screen {
		fmt.Fprintln(p.w)
	}
}

func (p *progress) tell() {
	defer close(p.ended)
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.print()
		}
	}
}

func (p *progress) print() {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.line(time.Since(p.begin))
	if p.screen {
		fmt.Fprint(p.w, "\r\x1b[K"+line)
	} else {
		fmt.Fprintln(p.w, line)
	}
}

// verdictWords is the order in which a line counts verdicts.
var verdictWords = []string{"succeeded", "program", "limit", "platform", "canceled", "expired", "rejected", "done before"}

func (p *progress) line(elapsed time.Duration) string {
	var b strings.Builder
	if p.screen {
		const cells = 24
		full := cells
		if p.total > 0 {
			full = min(cells, cells*p.done/p.total)
		}
		b.WriteString(p.p.green(strings.Repeat("█", full)) + p.p.dim(strings.Repeat("░", cells-full)) + "  ")
	}
	fmt.Fprintf(&b, "%d/%d", p.done, p.total)
	for _, word := range verdictWords {
		if n := p.counts[word]; n > 0 {
			fmt.Fprintf(&b, "  %s %d", p.in(word), n)
		}
	}
	if s := elapsed.Seconds(); s >= 1 && p.done > p.before {
		rate := float64(p.done-p.before) / s
		fmt.Fprintf(&b, "  %.1f/s", rate)
		if left := p.total - p.done; left > 0 {
			fmt.Fprintf(&b, "  %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	return b.String()
}

func (p *progress) in(word string) string {
	switch word {
	case "succeeded":
		return p.p.green(word)
	case "program", "limit":
		return p.p.yellow(word)
	case "platform", "rejected":
		return p.p.red(word)
	}
	return p.p.dim(word)
}
