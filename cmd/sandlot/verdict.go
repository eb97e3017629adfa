package main

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// exitCode is what `sandlot run` exits with for a job that has ended.
func exitCode(j api.Job) int {
	if j.State == job.Succeeded {
		return 0
	}
	if j.State == job.Canceled {
		return 128 + int(unix.SIGINT)
	}
	if j.Verdict == nil {
		return exitPlatform
	}
	switch j.Verdict.Blame {
	case job.BlameProgram:
		if n := unix.SignalNum(j.Verdict.Evidence.Signal); n > 0 {
			return 128 + int(n)
		}
		if code := j.Verdict.Evidence.ExitCode; code != nil {
			return *code
		}
	case job.BlameLimit:
		return exitLimit
	}
	return exitPlatform
}

// verdictWord is the word a verdict is counted under.
func verdictWord(state job.State, blame job.Blame) string {
	switch state {
	case job.Failed, job.Dead:
		return string(blame)
	}
	return string(state)
}

// evidence says in a few words which numbers decided.
func evidence(v job.Verdict) string {
	e := v.Evidence
	var parts []string
	switch {
	case e.Unit != "":
		parts = append(parts, fmt.Sprintf("measured %s, limit %s", measure(e.Measured, e.Unit), measure(e.Limit, e.Unit)))
		if e.Applied != e.Limit && e.Applied != 0 {
			parts = append(parts, "enforced at "+measure(e.Applied, e.Unit))
		}
	case e.Signal != "":
		parts = append(parts, e.Signal)
	case e.ExitCode != nil:
		parts = append(parts, fmt.Sprintf("exit code %d", *e.ExitCode))
	}
	if e.OOMKills > 0 {
		parts = append(parts, fmt.Sprintf("%d oom kills", e.OOMKills))
	}
	if e.Refaults > 0 {
		parts = append(parts, fmt.Sprintf("%d refaults/s", e.Refaults))
	}
	if len(e.Hit) > 0 {
		parts = append(parts, "hit "+strings.Join(e.Hit, ", "))
	}
	if e.Detail != "" {
		parts = append(parts, e.Detail)
	}
	return strings.Join(parts, ", ")
}

func measure(value float64, unit string) string {
	switch unit {
	case "bytes":
		return size(int64(value))
	case "ms":
		return (time.Duration(value) * time.Millisecond).String()
	}
	return fmt.Sprintf("%g %s", value, unit)
}

// sentence is the end of a job in one line.
func sentence(j api.Job) string {
	if j.Verdict == nil {
		return string(j.State)
	}
	text := fmt.Sprintf("%s (%s: %s)", j.State, j.Verdict.Blame, j.Verdict.Reason)
	if e := evidence(*j.Verdict); e != "" {
		text += ", " + e
	}
	return text
}
