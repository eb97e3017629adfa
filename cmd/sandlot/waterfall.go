package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// waterfall draws spans below each other, each as a bar on one time axis:
//
//	submit              0.0   1.8  ▐██
//	  accept            0.2   1.1   ██
//
// The first number is when the span began, the second how long it took, both
// in milliseconds.
func waterfall(w io.Writer, spans []job.Span, width int, p paint) {
	if len(spans) == 0 {
		fmt.Fprintln(w, "no spans are known of this job")
		return
	}
	begin, end := spans[0].Start, spans[0].End
	for _, s := range spans {
		if s.Start.Before(begin) {
			begin = s.Start
		}
		if s.End.After(end) {
			end = s.End
		}
	}
	rows := nest(spans)
	label := 0
	for _, r := range rows {
		label = max(label, 2*r.depth+len(r.span.Name))
	}
	const numbers = 34 // service, start, duration
	axis := scale{begin: begin, total: max(end.Sub(begin), time.Microsecond), cells: max(width-label-numbers, 20)}
	fmt.Fprintf(w, "%-*s  %-9s %9s %9s\n", label, "span", "where", "start ms", "took ms")
	for _, r := range rows {
		bar := axis.bar(r.span)
		switch {
		case r.span.Error != "":
			bar = p.red(bar) + " " + p.red(r.span.Error)
		case r.depth == 0:
			bar = p.cyan(bar)
		default:
			bar = p.green(bar)
		}
		fmt.Fprintf(w, "%-*s  %-9s %9.1f %9.1f  %s\n", label, strings.Repeat("  ", r.depth)+r.span.Name,
			r.span.Service, millis(r.span.Start.Sub(begin)), millis(r.span.End.Sub(r.span.Start)), bar)
	}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// scale maps times to cells of a line.
type scale struct {
	begin time.Time
	total time.Duration
	cells int
}

func (s scale) cell(t time.Time) int {
	return int(int64(s.cells) * int64(t.Sub(s.begin)) / int64(s.total))
}

func (s scale) bar(span job.Span) string {
	from := min(s.cell(span.Start), s.cells-1)
	to := min(s.cell(span.End), s.cells)
	if to <= from {
		return strings.Repeat(" ", from) + "▏"
	}
	return strings.Repeat(" ", from) + strings.Repeat("█", to-from)
}

// row is a span and how deep it stands below its root.
type row struct {
	span  job.Span
	depth int
}

// nest orders spans as a tree: children below their parent, by time. A span
// whose parent is not there stands at the top.
func nest(spans []job.Span) []row {
	known := map[string]bool{}
	for _, s := range spans {
		known[s.ID] = true
	}
	children := map[string][]job.Span{}
	for _, s := range spans {
		parent := s.Parent
		if !known[parent] || parent == s.ID {
			parent = ""
		}
		children[parent] = append(children[parent], s)
	}
	var rows []row
	var walk func(parent string, depth int)
	walk = func(parent string, depth int) {
		below := children[parent]
		delete(children, parent) // a loop of parents ends here
		slices.SortStableFunc(below, func(a, b job.Span) int { return a.Start.Compare(b.Start) })
		for _, s := range below {
			rows = append(rows, row{s, depth})
			walk(s.ID, depth+1)
		}
	}
	walk("", 0)
	return rows
}
