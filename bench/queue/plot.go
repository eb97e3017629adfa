package main

import (
	"bytes"
	"fmt"
	"math"
)

// point is one that is drawn: jobs queued, and microseconds per job.
type point struct{ x, y float64 }

// The picture, in its own units.
const (
	width, height = 640, 320
	left, bottom  = 70, 50
	top, right    = 30, 30
)

// plot draws the cost of a job over the number that wait, the latter by
// powers of ten, as SVG.
func plot(points []point) []byte {
	low, high := math.Log10(points[0].x), math.Log10(points[len(points)-1].x)
	if high == low {
		high++
	}
	most := 0.0
	for _, p := range points {
		most = max(most, p.y)
	}
	step := niceStep(most)
	most = step * math.Ceil(1.1*most/step)
	x := func(v float64) float64 { return left + (math.Log10(v)-low)/(high-low)*(width-left-right) }
	y := func(v float64) float64 { return height - bottom - v/most*(height-bottom-top) }
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for v := 0.0; v <= most; v += step {
		fmt.Fprintf(&b, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.0f</text>`+"\n", left, y(v), width-right, left-8, y(v)+4, v)
	}
	for _, p := range points {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`+"\n", x(p.x), height-bottom+20, p.x)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">jobs queued behind</text>`+"\n", (left+width-right)/2, height-10)
	fmt.Fprintf(&b, `<text x="%d" y="18">microseconds of processor time a job (server, scheduler, worker)</text>`+"\n", left)
	b.WriteString(`<polyline fill="none" stroke="#0b62a4" stroke-width="2" points="`)
	for _, p := range points {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(p.x), y(p.y))
	}
	b.WriteString(`"/>` + "\n")
	for _, p := range points {
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="4" fill="#0b62a4"><title>%.0f queued: %.0f us</title></circle>`+"\n", x(p.x), y(p.y), p.x, p.y)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// niceStep is a round distance between four or more lines up to v.
func niceStep(v float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(v)))
	for _, part := range []float64{0.1, 0.2, 0.25, 0.5, 1} {
		if v/(part*step) <= 8 {
			return part * step
		}
	}
	return step
}
