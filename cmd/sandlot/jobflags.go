package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// jobFlags describe one job on the command line, for run and submit.
type jobFlags struct {
	language, code, stdin, workdir, queue, key string
	pool, class                                string

	files, artifacts []string
	env, labels      []string
	priority, pids   int
	cpu              float64
	memory, disk     bytesFlag
	outputLimit      bytesFlag
	wall, cpuTime    millisFlag

	notBefore string
	in        millisFlag

	startBy, startup, total millisFlag
	retryOn                 []string
	attempts                int
	backoff, maxBackoff     millisFlag
}

func (j *jobFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&j.language, "language", "", "language of the program in FILE or --code: python, node, c, …")
	f.StringVar(&j.code, "code", "", "the program itself, instead of FILE")
	f.StringArrayVar(&j.files, "file", nil, "LOCAL[:PATH], a file or directory to lay into the work directory")
	f.StringVar(&j.stdin, "stdin", "", "file to give as standard input; - is that of sandlot")
	f.StringArrayVar(&j.env, "env", nil, "NAME=VALUE for the program, or NAME to pass on your own")
	f.StringVar(&j.workdir, "workdir", "", "where the command starts (default /work)")
	f.StringArrayVar(&j.artifacts, "artifact", nil, "pattern of files to keep, such as out/*.csv")
	f.Float64Var(&j.cpu, "cpu", 0, "limit: cores (default 1)")
	f.Var(&j.memory, "memory", "limit: memory, such as 256Mi (default 512Mi)")
	f.Var(&j.disk, "disk", "limit: files written, inside memory (default 256Mi)")
	f.Var(&j.outputLimit, "output-limit", "limit: standard output and error together (default 64Mi)")
	f.Var(&j.wall, "wall", "limit: time by the clock, such as 10s (default 10s)")
	f.Var(&j.cpuTime, "cpu-time", "limit: processor time (default wall × cpu)")
	f.IntVar(&j.pids, "pids", 0, "limit: processes at once (default 64)")
	f.StringVar(&j.queue, "queue", "", "queue to wait in (default default)")
	f.StringVar(&j.pool, "pool", "", "pool of workers to run in (default main)")
	f.StringVar(&j.class, "class", "", "class of the pool (default: the first that is large enough)")
	f.IntVar(&j.priority, "priority", api.DefaultPriority, "0 (first) to 9 (last)")
	f.StringArrayVar(&j.labels, "label", nil, "NAME=VALUE for your own filters")
	f.StringVar(&j.notBefore, "not-before", "", "run it no earlier than this time, such as 2026-03-01T08:00:00Z")
	f.Var(&j.in, "in", "run it no earlier than after this time, such as 10m")
	f.Var(&j.startBy, "start-by", "budget: expire if no attempt was claimed after this time, such as 30s")
	f.Var(&j.startup, "startup", "budget: what each attempt may take until its sandbox is ready")
	f.Var(&j.total, "total", "budget: expire, or be stopped, after this time, retries included")
	f.StringSliceVar(&j.retryOn, "retry-on", nil, "try again after these: program, limit, or reasons such as out_of_memory")
	f.IntVar(&j.attempts, "attempts", 0, "attempts that --retry-on allows (default 3)")
	f.Var(&j.backoff, "backoff", "wait before the second attempt; doubles (default 1s)")
	f.Var(&j.maxBackoff, "max-backoff", "longest wait between attempts (default 1m)")
	f.StringVar(&j.key, "idempotency-key", "", "a second submit with this key answers with the first one's job")
}

// submit is what the flags and arguments ask for.
func (j *jobFlags) submit(cmd *cobra.Command, args []string, stdin io.Reader) (api.Submit, error) {
	return j.submitAt(cmd, args, cmd.ArgsLenAtDash(), stdin)
}

// submitAt is submit with arguments of which so many come before --; fewer
// than 0 if there is none.
func (j *jobFlags) submitAt(cmd *cobra.Command, args []string, dash int, stdin io.Reader) (api.Submit, error) {
	var wrong problems
	s := api.Submit{
		Workdir: j.workdir, Artifacts: j.artifacts, Queue: j.queue, Pool: j.pool, Class: j.class, IdempotencyKey: j.key,
		Limits: api.Limits{
			CPU: j.cpu, Memory: job.Bytes(j.memory), PIDs: j.pids, Disk: job.Bytes(j.disk),
			Output: job.Bytes(j.outputLimit), Wall: job.Millis(j.wall), CPUTime: job.Millis(j.cpuTime),
		},
		Env: pairs("--env", j.env, os.LookupEnv, &wrong), Labels: pairs("--label", j.labels, nil, &wrong),
	}
	for _, limit := range []string{"cpu", "memory", "disk", "output-limit", "wall", "cpu-time", "pids", "start-by", "startup", "total"} {
		f := cmd.Flags().Lookup(limit)
		wrong.check(!f.Changed || f.Value.String() != "" && f.Value.String() != "0", "--%s: a limit of 0 lets nothing run; leave it out for the default", limit)
	}
	if cmd.Flags().Changed("priority") {
		s.Priority = &j.priority
	}
	s.Budgets = api.Budgets{StartBy: job.Millis(j.startBy), Startup: job.Millis(j.startup), Total: job.Millis(j.total)}
	s.Retry = api.Retry{MaxAttempts: j.attempts, On: j.retryOn, Backoff: job.Millis(j.backoff), MaxBackoff: job.Millis(j.maxBackoff)}
	s.NotBefore = j.begin(time.Now(), &wrong)
	if j.language != "" {
		j.program(&s, args, dash, stdin, &wrong)
	} else {
		command(&s, cmd, args, dash, &wrong)
		wrong.check(j.code == "", "--code needs --language")
	}
	for _, file := range j.files {
		files, err := readFiles(file)
		if err != nil {
			wrong.addf("--file %s: %v", file, err)
		}
		s.Files = append(s.Files, files...)
	}
	if j.stdin != "" {
		data, err := readInput(j.stdin, stdin)
		if err != nil {
			wrong.addf("--stdin %s: %v", j.stdin, err)
		}
		s.Stdin, s.StdinBase64 = textOrBytes(data)
	}
	return s, wrong.err()
}

// begin is when the job may run first, zero if at once.
func (j *jobFlags) begin(now time.Time, wrong *problems) time.Time {
	switch {
	case j.notBefore != "" && j.in != 0:
		wrong.addf("--in: say it once, either --not-before or --in")
	case j.in != 0:
		wrong.check(j.in > 0, "--in %s: write a time ahead, such as 10m", j.in.String())
		return now.Add(job.Millis(j.in).Duration()).UTC()
	case j.notBefore != "":
		at, err := time.Parse(time.RFC3339, j.notBefore)
		wrong.check(err == nil, "--not-before %q: write date, time and zone, such as 2026-03-01T08:00:00Z", j.notBefore)
		return at.UTC()
	}
	return time.Time{}
}

// program fills in the form with a language: run --language python FILE.
func (j *jobFlags) program(s *api.Submit, args []string, dash int, stdin io.Reader, wrong *problems) {
	s.Language, s.Code = j.language, j.code
	switch {
	case dash >= 0:
		wrong.addf("with --language there is no command: leave out everything from -- on")
	case j.code != "" && len(args) > 0, j.code == "" && len(args) != 1:
		wrong.addf("with --language give the program either as one FILE or by --code")
	case j.code == "":
		data, err := readInput(args[0], stdin)
		if err != nil {
			wrong.addf("read program: %v", err)
		}
		wrong.check(utf8.Valid(data), "%s is not a text in UTF-8", args[0])
		s.Code = string(data)
	}
}

// command fills in the form with an image: run IMAGE -- COMMAND…
func command(s *api.Submit, cmd *cobra.Command, args []string, dash int, wrong *problems) {
	switch {
	case len(args) == 0:
		wrong.addf("name an image and a command: %s IMAGE -- COMMAND…, or --language and a FILE", cmd.CommandPath())
	case dash < 0 && len(args) == 1:
		wrong.addf("say what to run in %s: %s %s -- COMMAND…", args[0], cmd.CommandPath(), args[0])
	case dash != 1 || len(args) < 2:
		wrong.addf("write -- between the image and the command: %s %s -- %s", cmd.CommandPath(), args[0], strings.Join(args[1:], " "))
	default:
		s.Image, s.Command = args[0], args[1:]
	}
}

// pairs reads NAME=VALUE texts. A NAME alone is looked up where that is
// possible.
func pairs(flag string, texts []string, lookup func(string) (string, bool), wrong *problems) map[string]string {
	if len(texts) == 0 {
		return nil
	}
	m := map[string]string{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok && lookup != nil {
			value, ok = lookup(name)
		}
		wrong.check(ok && name != "", "%s %q: write NAME=VALUE", flag, text)
		m[name] = value
	}
	return m
}

// readFiles reads LOCAL[:PATH]; a directory is read with all below it.
func readFiles(arg string) ([]job.File, error) {
	local, inside, ok := strings.Cut(arg, ":")
	if !ok || inside == "" {
		inside = filepath.Base(local)
	}
	var files []job.File
	err := filepath.WalkDir(local, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", name)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(local, name)
		if err != nil {
			return err
		}
		f := job.File{Path: path.Join(inside, filepath.ToSlash(below)), Executable: info.Mode()&0o111 != 0}
		f.Content, f.Base64 = textOrBytes(data)
		files = append(files, f)
		return nil
	})
	return files, err
}

func readInput(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

func textOrBytes(data []byte) (string, []byte) {
	if utf8.Valid(data) {
		return string(data), nil
	}
	return "", data
}

// bytesFlag is a size such as 256Mi.
type bytesFlag job.Bytes

func (b *bytesFlag) String() string {
	if *b == 0 {
		return ""
	}
	return job.Bytes(*b).String()
}
func (b *bytesFlag) Type() string { return "size" }
func (b *bytesFlag) Set(text string) error {
	n, err := job.ParseBytes(text)
	*b = bytesFlag(n)
	return err
}

// millisFlag is a duration such as 10s.
type millisFlag job.Millis

func (m *millisFlag) String() string {
	if *m == 0 {
		return ""
	}
	return job.Millis(*m).String()
}
func (m *millisFlag) Type() string { return "duration" }
func (m *millisFlag) Set(text string) error {
	var v job.Millis
	err := v.UnmarshalJSON(fmt.Appendf(nil, "%q", text))
	*m = millisFlag(v)
	return err
}
