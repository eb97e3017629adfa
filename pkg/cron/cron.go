// Package cron says when a schedule ticks.
//
// A Plan is a line of cron and a time zone:
//
//	minute hour day-of-month month day-of-week      0 3 * * *     every day at 3:00
//	second minute hour day-of-month month …         30 0 3 * * *  half a minute later
//	@hourly @daily @weekly @monthly @yearly @every 10m
//
// If days of the month and of the week are both restricted, either will do, as
// cron has always had it. The line is read by a library; what the clocks of a
// zone do to it is decided here. When they go forward, a tick in the hour that
// is left out comes as much later as the clock went forward. When they go
// back, a line that names hours ticks in the first of the two hours alone, and
// one that ticks in every hour of the day in both.
package cron

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
	_ "time/tzdata" // zones are the same on every host

	reader "github.com/netresearch/go-cron"
)

const (
	// maxEvery is the longest interval.
	maxEvery = 366 * 24 * time.Hour
	// maxYears is how far ahead a tick is looked for: from one 29 February to
	// the next it may be eight.
	maxYears = 10
	maxLine  = 256

	anyHour = 1<<24 - 1
	minute  = 1<<60 - 1
)

// Plan says when a schedule ticks.
type Plan struct {
	zone *time.Location
	// every is the interval of @every; 0 if line says when.
	every time.Duration
	// line works on the time of the wall clock, as if that were UTC.
	line *reader.SpecSchedule
	// hourly: it ticks in every hour of the day.
	hourly bool
}

// Error says what is wrong, in a sentence that goes on from the value.
type Error struct {
	// Zone: the time zone is, not the line.
	Zone bool
	Text string
}

func (e *Error) Error() string { return e.Text }

func wrong(format string, args ...any) *Error { return &Error{Text: fmt.Sprintf(format, args...)} }

// part is one of the fields of a line.
type part struct{ name, values string }

var parts = []part{
	{"second", "0-59"}, {"minute", "0-59"}, {"hour", "0-23"}, {"day of month", "1-31"},
	{"month", "1-12 or JAN-DEC"}, {"day of week", "0-7 or SUN-SAT"},
}

func parser() reader.Parser {
	return reader.MustNewParser(reader.SecondOptional | reader.Minute | reader.Hour | reader.Dom | reader.Month |
		reader.Dow | reader.Descriptor | reader.DowOrDom).WithMaxSearchYears(maxYears)
}

// Parse reads a line and the name of a zone, "" for UTC. The error is an
// *Error.
func Parse(line, zone string) (*Plan, error) {
	p := &Plan{zone: time.UTC}
	if zone != "" {
		loc, err := time.LoadLocation(zone)
		if err != nil || zone == "Local" {
			return nil, &Error{Zone: true, Text: `is not a time zone; write a name of the IANA data base, such as "Europe/Berlin", or "UTC"`}
		}
		p.zone = loc
	}
	line = strings.TrimSpace(line)
	switch {
	case line == "":
		return nil, wrong(`is empty; write when, such as "0 3 * * *" for every day at 3:00`)
	case len(line) > maxLine:
		return nil, wrong("is longer than %d bytes", maxLine)
	case strings.Contains(line, "TZ="):
		return nil, wrong(`names a time zone; write that in time_zone, and here only when, such as "0 3 * * *"`)
	case strings.HasPrefix(line, "@"):
		return p, p.readName(line)
	}
	return p, p.readLine(line)
}

// readName reads @daily and the like.
func (p *Plan) readName(line string) error {
	if text, ok := strings.CutPrefix(line, "@every "); ok {
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil || d < time.Second || d > maxEvery || d%time.Second != 0 {
			return wrong("has the interval %q; write whole seconds, at most %v, such as \"@every 10m\"", text, maxEvery)
		}
		p.every = d
		return nil
	}
	s, err := parser().Parse(line)
	spec, ok := s.(*reader.SpecSchedule)
	if err != nil || !ok {
		return wrong("is not known; there are @hourly, @daily, @weekly, @monthly, @yearly and @every, such as \"@every 10m\"")
	}
	p.use(spec)
	return nil
}

// readLine reads five or six fields; what is wrong with which of them is found
// by reading each beside stars.
func (p *Plan) readLine(line string) error {
	fields := strings.Fields(line)
	if len(fields) < 5 || len(fields) > 6 {
		return wrong(`has %d parts; write five, minute, hour, day of month, month and day of week, such as "0 3 * * *", or six with the second first`, len(fields))
	}
	for i, field := range fields {
		alone := strings.Fields(strings.Repeat("* ", len(fields)))
		alone[i] = field
		_, err := parser().Parse(strings.Join(alone, " "))
		if err != nil || strings.Contains(","+field+",", ",,") {
			named := parts[i+len(parts)-len(fields)]
			return wrong(`has the %s %q; write %s, *, a list as in "1,2", a range as in "1-5" or a step as in "*/2"`, named.name, field, named.values)
		}
	}
	s, err := parser().Parse(line)
	spec, ok := s.(*reader.SpecSchedule)
	if err != nil || !ok {
		return wrong(`cannot be read; write it as in "0 3 * * *"`)
	}
	p.use(spec)
	if p.Next(time.Now()).IsZero() {
		return wrong(`never ticks: no day of the next %d years is in month %q and on day %q; write days that there are, such as "0 0 28 2 *"`,
			maxYears, fields[len(fields)-2], fields[len(fields)-3])
	}
	return nil
}

func (p *Plan) use(spec *reader.SpecSchedule) {
	spec.Location = time.UTC
	p.line, p.hourly = spec, spec.Hour&anyHour == anyHour
}

// Interval is the least time that may lie between two ticks.
func (p *Plan) Interval() time.Duration {
	if p.every > 0 {
		return p.every
	}
	return leastGap(p.line.Second)
}

// leastGap is the least time between two seconds of a minute, or between the
// last and the first of the next one.
func leastGap(seconds uint64) time.Duration {
	seconds &= minute
	gap := 60
	for i := range 60 {
		if seconds&(1<<i) == 0 {
			continue
		}
		later := seconds >> (i + 1)
		if later != 0 {
			gap = min(gap, 1+bits.TrailingZeros64(later))
		} else {
			gap = min(gap, 60-i+bits.TrailingZeros64(seconds))
		}
	}
	return time.Duration(gap) * time.Second
}

// Next is the first tick after a time; zero if there is none in the next years.
func (p *Plan) Next(after time.Time) time.Time {
	if p.every > 0 {
		return after.UTC().Truncate(time.Second).Add(p.every)
	}
	at := after.In(p.zone)
	wall := clock(at)
	// Each turn is about a time in which the zone keeps its offset.
	for range 4 * maxYears {
		start, end := at.ZoneBounds()
		offset := offsetOf(at)
		if !p.hourly && !start.IsZero() {
			// What the clock shows a second time has been.
			if shown := start.Add(offsetOf(start.Add(-1)) - time.Second); wall.Before(shown.UTC()) {
				wall = shown.UTC()
			}
		}
		next := p.line.Next(wall)
		if next.IsZero() {
			return time.Time{}
		}
		found := next.Add(-offset)
		// Before clock(end) is also what the clock leaves out at that end.
		if end.IsZero() || found.Before(end) || next.Before(clock(end)) {
			return found
		}
		at, wall = end, clock(end).Add(-time.Second)
	}
	return time.Time{}
}

// clock is what the wall clock shows, as if it were UTC.
func clock(at time.Time) time.Time { return at.Add(offsetOf(at)).UTC() }

func offsetOf(at time.Time) time.Duration {
	_, seconds := at.Zone()
	return time.Duration(seconds) * time.Second
}

// Last is the last tick after one time and not after another; zero if there
// is none.
func (p *Plan) Last(after, until time.Time) time.Time {
	tick := p.Next(after)
	if tick.IsZero() || tick.After(until) {
		return time.Time{}
	}
	if p.every > 0 {
		return tick.Add(until.Sub(tick).Truncate(p.every))
	}
	// Look back twice as far each time, lest a year of minutes is counted.
	for back := time.Minute; until.Add(-back).After(after); back *= 2 {
		if later := p.Next(until.Add(-back)); !later.IsZero() && !later.After(until) {
			tick = later
			break
		}
	}
	for {
		next := p.Next(tick)
		if next.IsZero() || next.After(until) {
			return tick
		}
		tick = next
	}
}
