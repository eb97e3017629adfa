package cron_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/cron"
)

func plan(t testing.TB, line, zone string) *cron.Plan {
	t.Helper()
	p, err := cron.Parse(line, zone)
	if err != nil {
		t.Fatalf("%q in %q: %v", line, zone, err)
	}
	return p
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// ticks are the first n after a time, as the clocks of the zone show them.
func ticks(t testing.TB, p *cron.Plan, zone, after string, n int) []string {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for tick := at(t, after); len(list) < n; {
		next := p.Next(tick)
		if !next.After(tick) {
			t.Fatalf("after %v comes %v", tick, next)
		}
		tick = next
		list = append(list, tick.In(loc).Format("01-02 15:04:05 -07"))
	}
	return list
}

func TestTicks(t *testing.T) {
	for name, c := range map[string]struct {
		line, zone, after string
		want              []string
	}{
		"every quarter": {"*/15 * * * *", "UTC", "2026-11-28T12:00:00Z", []string{"11-28 12:15:00 +00", "11-28 12:30:00 +00"}},
		"a tick is not its own next": {"0 12 * * *", "UTC", "2026-11-28T11:59:59.999Z",
			[]string{"11-28 12:00:00 +00", "11-29 12:00:00 +00"}},
		"seconds": {"*/30 0 12 * * *", "UTC", "2026-11-28T12:00:00Z", []string{"11-28 12:00:30 +00", "11-29 12:00:00 +00"}},
		"day of month or of week, as cron has it": {"0 0 13 * FRI", "UTC", "2026-11-07T00:00:00Z",
			[]string{"11-13 00:00:00 +00", "11-20 00:00:00 +00", "11-27 00:00:00 +00", "12-04 00:00:00 +00", "12-11 00:00:00 +00", "12-13 00:00:00 +00"}},
		"leap day":       {"0 0 29 2 *", "UTC", "2026-11-28T00:00:00Z", []string{"02-29 00:00:00 +00"}},
		"sunday is 0, 7": {"0 0 * * 7", "UTC", "2026-11-28T12:00:00Z", []string{"11-29 00:00:00 +00"}},
		"a name":         {"@weekly", "UTC", "2026-11-28T12:00:00Z", []string{"11-29 00:00:00 +00", "12-06 00:00:00 +00"}},
		"an interval counts from where it begins": {"@every 90m", "UTC", "2026-11-28T12:00:07.9Z",
			[]string{"11-28 13:30:07 +00", "11-28 15:00:07 +00"}},
		"a zone": {"0 9 * * 1-5", "Asia/Kathmandu", "2026-11-27T12:00:00Z", []string{"11-30 09:00:00 +05"}},
		"forward: what is left out comes later by as much": {"30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z",
			[]string{"03-08 03:30:00 -04", "03-09 02:30:00 -04"}},
		"forward: two that fall together are one": {"30 2,3 * * *", "America/New_York", "2026-03-08T05:00:00Z",
			[]string{"03-08 03:30:00 -04", "03-09 02:30:00 -04", "03-09 03:30:00 -04"}},
		"forward: every hour has its tick": {"30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z",
			[]string{"03-29 01:30:00 +01", "03-29 03:30:00 +02", "03-29 04:30:00 +02"}},
		"forward at midnight": {"0 0 * * *", "Africa/Cairo", "2026-04-22T22:00:00Z",
			[]string{"04-24 01:00:00 +03", "04-25 00:00:00 +03"}},
		"forward by half an hour": {"15 2 * * *", "Australia/Lord_Howe", "2026-10-02T20:00:00Z",
			[]string{"10-04 02:45:00 +11", "10-05 02:15:00 +11"}},
		"back: named hours have one": {"30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z",
			[]string{"11-01 01:30:00 -04", "11-02 01:30:00 -05"}},
		"back: the same for some minutes": {"*/20 1-2 * * *", "America/New_York", "2026-11-01T05:30:00Z",
			[]string{"11-01 01:40:00 -04", "11-01 02:00:00 -05", "11-01 02:20:00 -05", "11-01 02:40:00 -05", "11-02 01:00:00 -05"}},
		"back: one who looks during the second hour": {"30 1 * * *", "America/New_York", "2026-11-01T06:10:00Z",
			[]string{"11-02 01:30:00 -05"}},
		"back: every hour is twice": {"30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z",
			[]string{"10-25 02:30:00 +02", "10-25 02:30:00 +01", "10-25 03:30:00 +01"}},
		"an interval knows no clocks": {"@every 1h", "Europe/Berlin", "2026-10-25T00:00:00Z",
			[]string{"10-25 02:00:00 +01", "10-25 03:00:00 +01"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := ticks(t, plan(t, c.line, c.zone), c.zone, c.after, len(c.want))
			if strings.Join(got, ", ") != strings.Join(c.want, ", ") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for line, want := range map[string]string{
		"":                                      "is empty",
		"* * * *":                               "has 4 parts",
		"* * * * * * *":                         "has 7 parts",
		"61 * * * *":                            `has the minute "61"; write 0-59`,
		"* 25 * * *":                            `has the hour "25"; write 0-23`,
		"0 0 0 * *":                             `has the day of month "0"; write 1-31`,
		"0 0 * foo *":                           `has the month "foo"`,
		"0 0 * * 8":                             `has the day of week "8"`,
		"0 0 * * 1,,2":                          `has the day of week "1,,2"`,
		"61 0 0 * * *":                          `has the second "61"`,
		"*/0 * * * *":                           `has the minute "*/0"`,
		"5-1 * * * *":                           "",
		"H * * * *":                             `has the minute "H"`,
		"0 0 L * *":                             `has the day of month "L"`,
		"é * * * *":                             `has the minute "é"`,
		"TZ=0":                                  "names a time zone",
		"CRON_TZ=UTC 0 3 * * *":                 "names a time zone",
		"@reboot":                               "is not known; there are @hourly",
		"@every":                                "is not known",
		"@every 0s":                             `has the interval "0s"`,
		"@every -5m":                            `has the interval "-5m"`,
		"@every 10500ms":                        "whole seconds",
		"@every 99999h":                         `has the interval "99999h"`,
		"0 0 30 2 *":                            `never ticks: no day of the next 10 years is in month "2" and on day "30"`,
		"0 0 31 2,4,6,9,11 *":                   "never ticks",
		strings.Repeat("1,", 200) + "1 * * * *": "longer than",
	} {
		_, err := cron.Parse(line, "")
		var e *cron.Error
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", line, err)
		case want != "" && (!errors.As(err, &e) || e.Zone || !strings.Contains(e.Text, want)):
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	for _, zone := range []string{"Mars/Olympus", "Local", "../etc/passwd", "europe/berlin ", "UTC+1"} {
		var e *cron.Error
		if _, err := cron.Parse("@daily", zone); !errors.As(err, &e) || !e.Zone {
			t.Errorf("zone %q: %v", zone, err)
		}
	}
}

func TestInterval(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"* * * * *": time.Minute, "* * * * * *": time.Second, "*/10 * * * * *": 10 * time.Second, "7 * * * * *": time.Minute,
		"0,55 * * * * *": 5 * time.Second, "0,20,59 0 0 1 1 *": time.Second, "@hourly": time.Minute, "@every 90s": 90 * time.Second,
	} {
		if got := plan(t, line, "").Interval(); got != want {
			t.Errorf("%s: %v, want %v", line, got, want)
		}
	}
}

// TestLastIsTheLastOfAllTicks counts them one by one to compare.
func TestLastIsTheLastOfAllTicks(t *testing.T) {
	for _, line := range []string{"*/7 * * * *", "0 3 * * *", "*/20 * 9 * * *", "30 2 29 3 *", "0 0 1 * *", "@every 37m"} {
		p := plan(t, line, "Europe/Berlin")
		after := at(t, "2026-03-20T00:00:07Z")
		for until := after; until.Before(after.AddDate(0, 0, 30)); until = until.Add(13*time.Hour + 7*time.Minute) {
			var want time.Time
			for tick := p.Next(after); !tick.After(until); tick = p.Next(tick) {
				want = tick
			}
			if got := p.Last(after, until); !got.Equal(want) {
				t.Errorf("%s until %v: %v, want %v", line, until, got, want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{"0 3 * * *", "TZ=0", "@every 1h", "*/5 1-7,9 L ? FRI#2", "@"} {
		f.Add(line, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, line, zone string) {
		p, err := cron.Parse(line, zone)
		if err != nil {
			return
		}
		now := at(t, "2026-11-28T12:00:00Z")
		first := p.Next(now)
		second := p.Next(first)
		if !first.After(now) || !second.IsZero() && second.Sub(first) < p.Interval() {
			t.Errorf("%q in %q ticks at %v, then at %v", line, zone, first, second)
		}
	})
}
