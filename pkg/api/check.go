package api

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Bounds of a submit, whatever the workers may have.
const (
	MaxFiles     = 1000
	MaxSteps     = 64
	MaxArgs      = 4096
	MaxArg       = 128<<10 - 1 // what the kernel takes for one argument
	MaxArgTotal  = 768 << 10   // all arguments and environment of a step; the image's come on top
	MaxEnv       = 512
	pageSize     = 4096 // files take whole pages of memory
	MaxArtifacts = 64
	MaxLabels    = 32
	MaxPath      = 4096
	MaxName      = 255 // one segment of a path
	MaxKey       = 256
	MaxPoolName  = 32

	MinCPU     = 0.01
	MaxCPU     = 1024.0
	MaxPIDs    = 32768
	MinMemory  = 16 * job.MiB
	MaxMemory  = 4096 * job.GiB
	MinDisk    = 4 * job.KiB
	MaxOutput  = 4 * job.GiB
	MaxWall    = job.Millis(24 * 60 * 60 * 1000)
	MaxCPUTime = 32 * MaxWall

	// MaxAhead is how far ahead a job may be asked for.
	MaxAhead = 30 * 24 * time.Hour
	// MaxBudget is the longest budget and backoff.
	MaxBudget = job.Millis(MaxAhead / time.Millisecond)
	// MaxAttempts is how many attempts a job may ask for.
	MaxAttempts = 20
)

var (
	namePattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	queuePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	poolPattern  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	labelPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)
	// imagePattern is the grammar of OCI references; a catalogue name is a
	// short one.
	imagePattern = regexp.MustCompile(`^([a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?/)?` +
		`[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*` +
		`(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

// check names everything that is out of bounds.
func check(s Submit, out *problems) {
	checkImage(s, out)
	checkFiles(s.Files, out)
	if len(s.Steps) > MaxSteps {
		out.add("steps", nil, "there are %d; at most %d", len(s.Steps), MaxSteps)
	}
	if s.Steps != nil {
		checkSteps(s, out)
	} else {
		checkCommand("", Step{Command: s.Command, Stdin: s.Stdin, StdinBase64: s.StdinBase64, Env: s.Env, Workdir: s.Workdir}, s.Language == "" && len(s.Command) == 0 && s.Command != nil, out)
	}
	checkLimits(s, out)
	if s.Network != "" && s.Network != NetworkNone {
		out.add("network", clip(s.Network), "only \"none\" is supported by this version")
	}
	checkArtifacts(s.Artifacts, out)
	if why := BadQueue(s.Queue); s.Queue != "" && why != "" {
		out.add("queue", clip(s.Queue), "%s", why)
	}
	if s.Priority != nil && (*s.Priority < 0 || *s.Priority > 9) {
		out.add("priority", *s.Priority, "must be between 0 (first) and 9 (last)")
	}
	checkLabels(s.Labels, out)
	checkTimes(s, out)
	checkKey("idempotency_key", s.IdempotencyKey, out)
	checkKey("key", s.Key, out)
}

// checkTimes checks when a job may run, how long it may take and what of it
// is tried again.
func checkTimes(s Submit, out *problems) {
	if latest := time.Now().Add(MaxAhead); s.NotBefore.After(latest) {
		out.add("not_before", s.NotBefore, "is more than 30 days ahead; name a time before %s", latest.UTC().Format(time.RFC3339))
	}
	for name, value := range map[string]job.Millis{
		"budgets.start_by_ms": s.Budgets.StartBy, "budgets.startup_ms": s.Budgets.Startup, "budgets.total_ms": s.Budgets.Total,
		"retry.backoff_ms": s.Retry.Backoff, "retry.max_backoff_ms": s.Retry.MaxBackoff,
	} {
		if value > MaxBudget {
			out.add(name, int64(value), "must be at most %d ms, 30 days", MaxBudget)
		}
	}
	if deadline := (job.Budgets(s.Budgets)).Deadline(time.Now(), 0); !deadline.IsZero() && s.NotBefore.After(deadline) {
		out.add("not_before", s.NotBefore, "is later than budgets allow, %s: the job could only expire", deadline.UTC().Format(time.RFC3339))
	}
	if r := s.Retry; r.MaxBackoff > 0 && r.Backoff > r.MaxBackoff {
		out.add("retry.backoff_ms", int64(r.Backoff), "is more than retry.max_backoff_ms, %d", r.MaxBackoff)
	}
	for i, word := range s.Retry.On {
		at := fmt.Sprintf("retry.on[%d]", i)
		switch {
		case slices.Contains(job.Retryable(), word):
		case word == string(job.BlamePlatform), word == string(job.ImageFault), word == string(job.SandboxFault), word == string(job.WorkerLost):
			out.add(at, clip(word), "is always retried, on a budget of its own of %d attempts; leave it out", job.PlatformAttempts)
		default:
			out.add(at, clip(word), "is nothing to retry; there are %s", strings.Join(job.Retryable(), ", "))
		}
	}
}

func checkImage(s Submit, out *problems) {
	switch {
	case out.has("image"):
	case s.Image == "" && s.Language == "":
		out.add("image", nil, "is missing; give a catalogue name such as \"python\", or an OCI reference")
	case s.Image != "":
		if why := BadImage(s.Image); why != "" {
			out.add("image", clip(s.Image), "%s", why)
		}
	}
}

// checkFiles checks every path, and that no two of them are in each other's
// way.
func checkFiles(files []job.File, out *problems) {
	if len(files) > MaxFiles {
		out.add("files", nil, "there are %d; at most %d", len(files), MaxFiles)
		return
	}
	index := map[string]int{}
	for i, f := range files {
		at := fmt.Sprintf("files[%d].path", i)
		if out.has(at) {
			continue
		}
		if why := BadPath(f.Path); why != "" {
			out.add(at, clip(f.Path), "%s", why)
			continue
		}
		if first, ok := index[f.Path]; ok {
			out.add(at, clip(f.Path), "is the path of files[%d] already", first)
			continue
		}
		index[f.Path] = i
	}
	for i, f := range files {
		for dir := path.Dir(f.Path); dir != "." && dir != "/" && index[f.Path] == i; dir = path.Dir(dir) {
			if first, ok := index[dir]; ok {
				out.add(fmt.Sprintf("files[%d].path", i), clip(f.Path), "needs %q to be a directory, and files[%d] makes it a file", clip(dir), first)
				break
			}
		}
	}
}

// BadPath says what is wrong with the path of a file, "" if nothing is: it is
// relative to the work directory and stays in it.
func BadPath(p string) string {
	switch {
	case p == "":
		return "is empty; name the file relative to the work directory"
	case strings.ContainsRune(p, 0):
		return "holds a NUL byte"
	case len(p) > MaxPath:
		return fmt.Sprintf("is longer than %d bytes", MaxPath)
	case path.IsAbs(p):
		return "is absolute; write it relative to the work directory, such as \"main.py\""
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "leaves the work directory; write it without \"..\""
	case path.Clean(p) != p || p == ".":
		return fmt.Sprintf("is not plain; write it without \".\", doubled or final slashes, such as %q", clip(path.Join("dir", path.Clean(p))))
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > MaxName {
			return fmt.Sprintf("has a name longer than %d bytes", MaxName)
		}
	}
	return ""
}

func checkSteps(s Submit, out *problems) {
	if len(s.Steps) == 0 && !out.has("steps") {
		out.add("steps", nil, "is empty; give at least one step")
	}
	index := map[string]int{}
	for i, step := range s.Steps {
		at := fmt.Sprintf("steps[%d]", i)
		checkCommand(at+".", step, len(step.Command) == 0, out)
		if step.Name != "" && !namePattern.MatchString(step.Name) {
			out.add(at+".name", clip(step.Name), "write a name of letters, digits, . - and _, at most 64")
		}
		if first, ok := index[step.Name]; ok && step.Name != "" {
			out.add(at+".name", clip(step.Name), "is the name of steps[%d] already", first)
		}
		index[step.Name] = i
		limits := s.Limits.filled()
		if step.Limits.Wall > limits.Wall {
			out.add(at+".limits.wall_ms", int64(step.Limits.Wall), "is more than the job's limits.wall_ms, %d", limits.Wall)
		}
		if step.Limits.CPUTime > limits.CPUTime {
			out.add(at+".limits.cpu_time_ms", int64(step.Limits.CPUTime), "is more than the job's limits.cpu_time_ms, %d", limits.CPUTime)
		}
	}
}

// checkCommand checks what a step runs and with what.
func checkCommand(at string, s Step, empty bool, out *problems) {
	if empty && !out.has(at+"command") {
		out.add(at+"command", nil, "is empty; give the program and its arguments"+commandHint)
	}
	if len(s.Command) > MaxArgs {
		out.add(at+"command", nil, "has %d arguments; at most %d", len(s.Command), MaxArgs)
	}
	total := 0
	for i, arg := range s.Command {
		total += len(arg) + 1
		where := fmt.Sprintf("%scommand[%d]", at, i)
		switch {
		case i == 0 && arg == "":
			out.add(where, "", "is empty; name the program")
		case strings.ContainsRune(arg, 0):
			out.add(where, clip(arg), "holds a NUL byte")
		case len(arg) > MaxArg:
			out.add(where, nil, "is longer than %d bytes; put it into a file or into stdin", MaxArg)
		}
	}
	if len(s.Env) > MaxEnv {
		out.add(at+"env", nil, "has %d names; at most %d", len(s.Env), MaxEnv)
	}
	for name, value := range s.Env {
		total += len(name) + len(value) + 2
		where := at + "env." + clip(name)
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			out.add(where, nil, "a name must not be empty nor hold \"=\" or NUL")
		case strings.ContainsRune(value, 0):
			out.add(where, clip(value), "holds a NUL byte")
		case len(name)+len(value) > MaxArg-1:
			out.add(where, nil, "is longer than %d bytes; put it into a file", MaxArg)
		}
	}
	if total > MaxArgTotal {
		out.add(at+"command", nil, "arguments and environment have %d bytes; at most %d, put the rest into files", total, MaxArgTotal)
	}
	if s.Stdin != "" && s.StdinBase64 != nil {
		out.add(at+"stdin_base64", nil, "say it once: either stdin or stdin_base64")
	}
	if s.Workdir != "" && (!path.IsAbs(s.Workdir) || path.Clean(s.Workdir) != s.Workdir || strings.ContainsRune(s.Workdir, 0) || len(s.Workdir) > MaxPath) {
		out.add(at+"workdir", clip(s.Workdir), "must be absolute and plain, such as \"/work/src\"")
	}
}

// filled are the limits with the defaults.
func (l Limits) filled() job.Limits {
	return job.Limits(l).Filled()
}

func checkLimits(s Submit, out *problems) {
	asked, l := s.Limits, s.Limits.filled()
	bound := func(name string, value, least, most int64, unit string) {
		at := "limits." + name
		if !out.has(at) && (value < least || value > most) {
			out.add(at, value, "must be between %d and %d %s", least, most, unit)
		}
	}
	bound("memory", int64(l.Memory), int64(MinMemory), int64(MaxMemory), "bytes (the least a sandbox needs is 16Mi)")
	bound("output", int64(l.Output), 1, int64(MaxOutput), "bytes")
	bound("wall_ms", int64(l.Wall), 1, int64(MaxWall), "ms")
	if asked.CPUTime != 0 {
		bound("cpu_time_ms", int64(l.CPUTime), 1, int64(MaxCPUTime), "ms")
	}
	if out.has("limits.disk") || out.has("limits.memory") {
		return
	}
	if l.Disk > l.Memory {
		out.add("limits.disk", int64(l.Disk), "is more than limits.memory, %d: written files live in memory; raise memory or lower disk", l.Memory)
	} else if asked.Disk != 0 {
		bound("disk", int64(l.Disk), int64(MinDisk), int64(MaxMemory), "bytes")
	}
	var files job.Bytes
	for _, f := range s.Files {
		files += (job.Bytes(len(f.Bytes())) + pageSize - 1) / pageSize * pageSize
	}
	if files > l.Disk {
		out.add("limits.disk", int64(l.Disk), "is less than the files take, %d bytes in whole pages", files)
	}
}

func checkArtifacts(globs []string, out *problems) {
	if len(globs) > MaxArtifacts {
		out.add("artifacts", nil, "there are %d patterns; at most %d", len(globs), MaxArtifacts)
	}
	for i, g := range globs {
		at := fmt.Sprintf("artifacts[%d]", i)
		if why := BadPath(g); why != "" {
			out.add(at, clip(g), "%s", why)
		} else if _, err := path.Match(g, ""); err != nil {
			out.add(at, clip(g), "is not a pattern: a [ needs its ]")
		}
	}
}

func checkLabels(labels map[string]string, out *problems) {
	if len(labels) > MaxLabels {
		out.add("labels", nil, "there are %d; at most %d", len(labels), MaxLabels)
	}
	for name, value := range labels {
		at := "labels." + clip(name)
		if !labelPattern.MatchString(name) {
			out.add(at, nil, "a name has letters, digits, . - _ and /, at most 63")
		}
		if len(value) > MaxKey || strings.ContainsFunc(value, control) {
			out.add(at, clip(value), "must be at most %d bytes without control characters", MaxKey)
		}
	}
}

func checkKey(at, key string, out *problems) {
	if len(key) > MaxKey || strings.ContainsFunc(key, control) {
		out.add(at, clip(key), "must be at most %d bytes without control characters", MaxKey)
	}
}

// BadBatch says what is wrong with the id of a batch, "" if nothing is.
func BadBatch(id string) string {
	if !namePattern.MatchString(id) {
		return "write letters, digits, . - and _, at most 64"
	}
	return ""
}

func control(r rune) bool { return r < 0x20 || r == 0x7f }

// BadImage says what is wrong with the name of an image, "" if nothing is.
func BadImage(name string) string {
	if name == "" || len(name) > 512 || !imagePattern.MatchString(name) {
		return "is neither a catalogue name nor an OCI reference such as \"docker.io/library/python:3.12\""
	}
	return ""
}
