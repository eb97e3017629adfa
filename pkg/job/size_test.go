package job_test

import (
	"encoding/json"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func TestSizesAreReadFromNumbersAndText(t *testing.T) {
	cases := map[string]struct {
		in   string
		want job.Bytes
		ok   bool
	}{
		"bytes":                {`1024`, 1024, true},
		"bytes as text":        {`"1024"`, 1024, true},
		"binary unit":          {`"64Mi"`, 64 << 20, true},
		"binary unit with B":   {`"64MiB"`, 64 << 20, true},
		"decimal unit":         {`"2GB"`, 2_000_000_000, true},
		"fraction":             {`"1.5Gi"`, 3 << 29, true},
		"space before unit":    {`"64 Mi"`, 64 << 20, true},
		"unknown unit":         {`"64Q"`, 0, false},
		"empty":                {`""`, 0, false},
		"negative text":        {`"-1Mi"`, 0, false},
		"more than fits":       {`"99999999Ti"`, 0, false},
		"not a number":         {`"NaN"`, 0, false},
		"fraction as a number": {`1.5`, 0, false},
		"wrong type":           {`true`, 0, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got job.Bytes
			err := json.Unmarshal([]byte(c.in), &got)
			if (err == nil) != c.ok || got != c.want {
				t.Errorf("%s: got %d, %v; want %d, ok %v", c.in, got, err, c.want, c.ok)
			}
		})
	}
}

func TestDurationsAreReadFromNumbersAndText(t *testing.T) {
	cases := map[string]struct {
		in   string
		want job.Millis
		ok   bool
	}{
		"milliseconds": {`1500`, 1500, true},
		"text":         {`"1.5s"`, 1500, true},
		"minutes":      {`"1m30s"`, 90_000, true},
		"no unit":      {`"10"`, 0, false},
		"overflow":     {`9223372036854775807`, 0, false},
		"wrong type":   {`[]`, 0, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got job.Millis
			err := json.Unmarshal([]byte(c.in), &got)
			if (err == nil) != c.ok || got != c.want {
				t.Errorf("%s: got %d, %v; want %d, ok %v", c.in, got, err, c.want, c.ok)
			}
		})
	}
}

func TestFilledLimitsKeepDiskWithinMemory(t *testing.T) {
	small := job.Limits{Memory: 64 * job.MiB, CPU: 2, Wall: 5000}.Filled()
	if small.Disk != 64*job.MiB {
		t.Errorf("disk %s above memory %s", small.Disk, small.Memory)
	}
	if small.CPUTime != 10_000 {
		t.Errorf("cpu time %s, want wall time × cores", small.CPUTime)
	}
}
