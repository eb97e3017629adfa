package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
	"github.com/sandlot-dev/sandlot/worker/guest"
)

// run runs a step in the box and gives its two outputs.
func (r *running) run(t *testing.T, step guest.Step) (exit guest.Exit, stdout, stderr string) {
	t.Helper()
	exit, stdout, stderr, err := r.try(t.Context(), step)
	if err != nil {
		t.Fatal(err)
	}
	return exit, stdout, stderr
}

func (r *running) try(ctx context.Context, step guest.Step) (exit guest.Exit, stdout, stderr string, err error) {
	if step.Dir == "" {
		step.Dir = "/work"
	}
	if step.Env == nil {
		step.Env = []string{"PATH=/run/sandlot/agent:/bin", "HOME=/home/sandlot"}
	}
	step.UID, step.GID = 1000, 1000
	var outs [3]bytes.Buffer
	exit, err = r.Run(ctx, step, func(s frame.Stream, data []byte) error {
		outs[s].Write(data)
		return nil
	})
	return exit, outs[1].String(), outs[2].String(), err
}

// want runs a shell script that must exit 0 and say just this.
func (r *running) want(t *testing.T, script, stdout string) {
	t.Helper()
	exit, out, errs := r.run(t, sh(script))
	if exit.Code != 0 || exit.Signal != 0 || out != stdout {
		t.Fatalf("%s: code %d, signal %d, stdout %q, want %q; stderr %q", script, exit.Code, exit.Signal, out, stdout, errs)
	}
}

func sh(script string) guest.Step {
	return guest.Step{Argv: []string{"sh", "-c", script}}
}

func file(path, content string) guest.File {
	return guest.File{Path: path, Mode: 0o644, Size: int64(len(content)), Body: strings.NewReader(content)}
}

func (r *running) put(t *testing.T, files ...guest.File) {
	t.Helper()
	if err := r.PutFiles(t.Context(), files); err != nil {
		t.Fatal(err)
	}
}

// artifacts collects into memory.
func (r *running) artifacts(t *testing.T, caps guest.Caps, globs ...string) (map[string]string, guest.Collected) {
	t.Helper()
	got := map[string]string{}
	collected, err := r.Collect(t.Context(), globs, caps, func(path string, _ fs.FileMode, _ int64) (io.WriteCloser, error) {
		return &kept{path: path, into: got}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, collected
}

type kept struct {
	bytes.Buffer
	path string
	into map[string]string
}

func (k *kept) Close() error {
	k.into[k.path] = k.String()
	return nil
}

func TestHelloTellsTheSandboxAsItIs(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		h := b.start(t, guest.Settings{}).Hello()
		if h.Layout != frame.OneDisk || h.Disk != diskSize || !h.RootReadonly || len(h.Notes) != 0 || h.Kernel == "" {
			t.Errorf("%+v", h)
		}
	})
}

func TestStepRunsAsTheJobAndNobodyElse(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		r.want(t, "id -u; id -g; id -G; pwd", "1000\n1000\n1000\n/work\n")
		r.want(t, "grep -E '^(Cap|NoNew)' /proc/self/status | tr -d ' \t\n'",
			"CapInh:0000000000000000CapPrm:0000000000000000CapEff:0000000000000000CapBnd:0000000000000000CapAmb:0000000000000000NoNewPrivs:1")
		r.want(t, "for d in /work /tmp /dev/shm /home/sandlot; do touch $d/x && rm $d/x; done; umask", "0022\n")
		_, out, _ := r.run(t, guest.Step{Argv: []string{"env"}, Env: []string{"PATH=/bin", "A=1", "B=x y"}})
		if out != "PATH=/bin\nA=1\nB=x y\n" {
			t.Errorf("environment %q", out)
		}
		_, out, _ = r.run(t, guest.Step{Argv: []string{"pwd"}, Dir: "/tmp"})
		if out != "/tmp\n" {
			t.Errorf("work directory %q", out)
		}
	})
}

func TestEveryExitCodeIsExactAndNoLastWordIsLost(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		for code := range 256 {
			exit, out, _ := r.run(t, sh(fmt.Sprintf("printf 'last words'; exit %d", code)))
			if exit.Code != code || exit.Signal != 0 || out != "last words" || exit.Stdout != 10 {
				t.Fatalf("exit %d: %+v, stdout %q", code, exit, out)
			}
		}
	})
}

func TestEverySignalIsExact(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		for _, sig := range []syscall.Signal{1, 2, 6, 8, 9, 11, 13, 14, 15} {
			exit, _, _ := r.run(t, sh(fmt.Sprintf("kill -%d $$", sig)))
			if exit.Signal != sig || exit.Code != 0 {
				t.Errorf("signal %d: %+v", sig, exit)
			}
		}
	})
}

func TestWhatCannotBeExecutedExitsAsInAShell(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		r.put(t,
			file("plain", "echo no"),
			guest.File{Path: "lost", Mode: 0o755, Size: 20, Body: strings.NewReader("#!/no/such/thing\nx\nx")},
			guest.File{Path: "noise", Mode: 0o755, Size: 4, Body: strings.NewReader("\x01\x02\x03\x04")},
			guest.File{Path: "bin/tool", Mode: 0o755, Size: 23, Body: strings.NewReader("#!/bin/sh\necho tool $1\n")},
		)
		cases := map[string]struct {
			step guest.Step
			code int
			text string
		}{
			"no such program":              {guest.Step{Argv: []string{"nosuch"}}, 127, "sandlot: nosuch: not found\n"},
			"no such path":                 {guest.Step{Argv: []string{"./nosuch"}}, 127, "sandlot: ./nosuch: not found\n"},
			"empty PATH":                   {guest.Step{Argv: []string{"sh"}, Env: []string{"A=b"}}, 127, "sandlot: sh: not found\n"},
			"not executable":               {guest.Step{Argv: []string{"./plain"}}, 126, "sandlot: ./plain: permission denied\n"},
			"directory":                    {guest.Step{Argv: []string{"/work/bin"}}, 126, "sandlot: /work/bin: is a directory\n"},
			"file as directory":            {guest.Step{Argv: []string{"./plain/x"}}, 127, "sandlot: ./plain/x: not found\n"},
			"interpreter missing":          {guest.Step{Argv: []string{"./lost"}}, 127, "sandlot: ./lost: interpreter not found\n"},
			"no program at all":            {guest.Step{Argv: []string{"./noise"}}, 126, "sandlot: ./noise: exec format error\n"},
			"work directory missing":       {guest.Step{Argv: []string{"sh"}, Dir: "/nosuch"}, 126, "sandlot: work directory /nosuch: not a directory\n"},
			"found in a relative PATH":     {guest.Step{Argv: []string{"tool", "x"}, Env: []string{"PATH=/bin:bin"}}, 0, ""},
			"not executable, found later":  {guest.Step{Argv: []string{"tool"}, Env: []string{"PATH=/etc:/work/bin"}}, 0, ""},
			"path relative to the workdir": {guest.Step{Argv: []string{"./tool"}, Dir: "/work/bin"}, 0, ""},
		}
		for name, c := range cases {
			exit, _, errs := r.run(t, c.step)
			if exit.Code != c.code || errs != c.text {
				t.Errorf("%s: code %d, stderr %q", name, exit.Code, errs)
			}
		}
	})
}

func TestFiveMegabytesOfNoiseArriveIntact(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{Buffer: 64 << 10})
		const size = 5 << 20
		sums := [3]interface {
			io.Writer
			Sum([]byte) []byte
		}{nil, sha256.New(), sha256.New()}
		exit, err := r.Run(t.Context(), guest.Step{
			Argv: []string{"/run/sandlot/agent/victim", "flood", fmt.Sprint(size)}, Dir: "/work", UID: 1000, GID: 1000,
		}, func(s frame.Stream, data []byte) error {
			_, err := sums[s].Write(data)
			return err
		})
		if err != nil || exit.Code != 0 || exit.Stdout != size || exit.Stderr != size {
			t.Fatal(exit, err)
		}
		got, _ := r.artifacts(t, guest.Caps{Files: 1, Bytes: 1000}, "sums")
		if want := fmt.Sprintf("%x %x", sums[1].Sum(nil), sums[2].Sum(nil)); got["sums"] != want {
			t.Errorf("received %s, the program wrote %s", want, got["sums"])
		}
	})
}

func TestInputOfAnySizeIsFed(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		big := bytes.Repeat([]byte("0123456789abcde\n"), 256<<10) // 4 MiB
		feed := func(in []byte, script string) (guest.Exit, string) {
			step := sh(script)
			step.Stdin = bytes.NewReader(in)
			exit, out, errs := r.run(t, step)
			if errs != "" {
				t.Errorf("%s: %s", script, errs)
			}
			return exit, out
		}
		if _, out := feed(big, "sha256sum"); out != fmt.Sprintf("%x  -\n", sha256.Sum256(big)) {
			t.Errorf("sum %q", out)
		}
		if _, out := feed(big, "cat | wc -c"); out != "4194304\n" {
			t.Errorf("count %q", out)
		}
		if exit, out := feed(big, "head -n 1; exit 3"); out != "0123456789abcde\n" || exit.Code != 3 {
			t.Errorf("reads one line: %+v, %q", exit, out)
		}
		if exit, _ := feed(big, "exit 4"); exit.Code != 4 {
			t.Errorf("reads nothing: %+v", exit)
		}
		if exit, _ := feed(big, "exec <&-; exit 5"); exit.Code != 5 {
			t.Errorf("closes its input: %+v", exit)
		}
		if _, out := feed(nil, "wc -c"); out != "0\n" {
			t.Errorf("empty input: %q", out)
		}
		r.want(t, "wc -c", "0\n") // /dev/null
	})
}

func TestNothingOfAStepOutlivesIt(t *testing.T) {
	left := map[string]string{
		"a child in the background":      "sleep 1000 & echo x",
		"one that holds no output":       "sleep 1000 >/dev/null 2>&1 & echo x",
		"one in a session of its own":    "setsid sleep 1000 & echo x",
		"one that heeds no signal":       "(trap '' TERM HUP INT; while :; do sleep 1; done) & echo x",
		"one that is stopped":            "sleep 1000 & kill -STOP $!; echo x",
		"a grandchild without a parent":  "(sleep 1000 & (sleep 1000 & sleep 1000 &) &) ; echo x",
		"a writer that does not stop":    "yes >/dev/null & echo x",
		"one in namespaces of its own":   "unshare -U -p -f sleep 1000 & echo x; sleep 0.2",
		"one that forks all the time":    "f() { f & f & }; f 2>/dev/null & echo x; sleep 0.1",
		"a chain that forks and exits":   "g() { (g &) ; exit; }; g 2>/dev/null & echo x; sleep 0.1",
		"a program that killed its kids": "sleep 1000 & kill $!; wait; echo x",
	}
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		for name, script := range left {
			step := sh(script)
			step.Limits = []frame.Limit{{Resource: 6, Value: 30}}
			start := time.Now()
			exit, out, _ := r.run(t, step)
			if exit.Code != 0 || out != "x\n" {
				t.Errorf("%s: %+v, %q", name, exit, out)
			}
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("%s: took %v", name, d)
			}
			if _, out, _ := r.run(t, guest.Step{Argv: []string{"victim", "others"}}); out != "" {
				t.Errorf("%s: still there: %s", name, out)
			}
		}
	})
}

// The ends of the output pipes can be open in a socket that nobody has.
func TestStepEndsWhenItsOutputIsHidden(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		exit, out, errs := r.run(t, guest.Step{Argv: []string{"victim", "hide"}})
		if exit.Code != 0 || out != "hidden" {
			t.Errorf("%+v, %q, %q", exit, out, errs)
		}
	})
}

func TestJobHasNoPowerOverTheAgent(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		exit, out, errs := r.run(t, guest.Step{Argv: []string{"victim", "attack"}})
		if exit.Code != 0 || out != "" {
			t.Errorf("code %d, signal %d\n%s\n%s", exit.Code, exit.Signal, out, errs)
		}
		r.want(t, "echo on", "on\n")
	})
}

func TestProcessLimitIsExact(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		// The shell is the first of them; it ends when it cannot fork. A second step must find the same room.
		for range 2 {
			step := sh("while :; do sleep 1000 & echo x; done")
			step.Limits = []frame.Limit{{Resource: 6, Value: 12}}
			exit, out, errs := r.run(t, step)
			if n := strings.Count(out, "x"); n != 11 || exit.Code == 0 || !strings.Contains(errs, "fork") {
				t.Errorf("%d children, %+v, %q", n, exit, errs)
			}
			if exit.Left != 11 {
				t.Errorf("%d processes were left", exit.Left)
			}
		}
	})
}

func TestResourceLimitsArriveAndDoNotStay(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		step := guest.Step{Argv: []string{"victim", "limits"}, Limits: []frame.Limit{
			{Resource: 4, Value: 0}, {Resource: 7, Value: 64}, {Resource: 1, Value: 1 << 20}, {Resource: 3, Value: 4 << 20},
		}}
		_, out, _ := r.run(t, step)
		lines := strings.Fields(strings.ReplaceAll(out, " ", "="))
		for _, want := range []string{"core=0", "files=64", "filesize=1048576", "stack=4194304"} {
			if !slices.Contains(lines, want) {
				t.Errorf("want %s, have %v", want, lines)
			}
		}
		exit, _, _ := r.run(t, func() guest.Step {
			s := sh("dd if=/dev/zero of=big bs=1k count=2k 2>/dev/null")
			s.Limits = []frame.Limit{{Resource: 1, Value: 1 << 20}}
			return s
		}())
		if exit.Signal != syscall.SIGXFSZ {
			t.Errorf("%+v", exit)
		}
		if b.name != "native" { // the host's root may lack CAP_SYS_RESOURCE
			step.Limits = nil
			if _, out, _ := r.run(t, step); strings.Contains(out, "filesize 1048576") {
				t.Errorf("limits stayed: %s", out)
			}
		}
		step.Limits = []frame.Limit{{Resource: 9, Value: 1 << 30}}
		_, _, _, err := r.try(t.Context(), step)
		var agent *guest.AgentError
		if !errors.As(err, &agent) || agent.Code != frame.CodeLaunch {
			t.Errorf("address space limit: %v", err)
		}
		r.want(t, "echo on", "on\n")
	})
}

func TestDiskLimitHoldsForAllDirectoriesTogether(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		exit, _, errs := r.run(t, sh(`for d in /work /tmp /dev/shm /home/sandlot; do dd if=/dev/zero of=$d/fill bs=64k count=40; done; exit 0`))
		if !strings.Contains(errs, "No space left on device") || exit.Code != 0 || !exit.DiskFull() || exit.Disk != diskSize {
			t.Errorf("%+v, %s", exit, errs)
		}
		_, out, _ := r.run(t, sh("cat /work/fill /tmp/fill /dev/shm/fill /home/sandlot/fill | wc -c"))
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil || n > diskSize || n < diskSize-64<<10 {
			t.Errorf("%d bytes fitted", n)
		}
		err = r.PutFiles(t.Context(), []guest.File{file("x", strings.Repeat("x", 1<<20)), file("y", "y")})
		var agent *guest.AgentError
		if !errors.As(err, &agent) || agent.Code != frame.CodeDiskFull || agent.Path != "x" {
			t.Errorf("put into a full disk: %v", err)
		}
		r.want(t, "rm /tmp/fill; echo on", "on\n")
		r.put(t, file("y", "y"))
		exit, _, _ = r.run(t, sh("cat y"))
		if exit.DiskFull() {
			t.Errorf("disk is still full: %+v", exit)
		}
	})
}

func TestFilesAreLaidAsTheJobsOwn(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		big := strings.Repeat("0123456789", 100_000)
		r.put(t,
			file("a.txt", "first"), file("d/e/f.txt", ""), file("big", big),
			guest.File{Path: "run.sh", Mode: 0o755, Size: 15, Body: strings.NewReader("#!/bin/sh\necho!")},
			guest.File{Path: "secret", Mode: 0o400, Size: 1, Body: strings.NewReader("s")},
			file("a.txt", "second"),
		)
		r.want(t, "cat a.txt; stat -c ' %a %u:%g' a.txt run.sh secret d d/e d/e/f.txt; wc -c <big",
			"second 644 1000:1000\n 755 1000:1000\n 400 1000:1000\n 755 1000:1000\n 755 1000:1000\n 644 1000:1000\n1000000\n")
		r.put(t, file("secret", "replaced"))
		r.want(t, "cat secret", "replaced")
		r.put(t)
	})
}

func TestNoFileLeavesTheWorkDirectory(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{FileMax: 100, FilesMax: 150, FileCount: 3})
		r.want(t, "mkdir real; ln -s /tmp dir; ln -s real inner; echo safe >/tmp/target; ln -s /tmp/target link; ln -s /tmp/new dangling; mkfifo pipe; mkdir full; touch full/x plain", "")
		for _, path := range []string{"dir/x", "inner/x", "full", "plain/x", "link/x"} {
			err := r.PutFiles(t.Context(), []guest.File{file(path, "evil"), file("after", "x")})
			var agent *guest.AgentError
			if !errors.As(err, &agent) || agent.Code != frame.CodeFile || agent.Path != path {
				t.Errorf("%s: %v", path, err)
			}
		}
		// A link, or whatever else is there, is replaced and not followed.
		r.put(t, file("link", "mine"), file("dangling", "mine"), file("pipe", "mine"))
		r.want(t, "cat /tmp/target link dangling pipe; ls /tmp", "safe\nmineminemine"+"target\n")

		refused := map[string][]guest.File{
			"absolute":       {file("/tmp/x", "")},
			"above":          {file("../x", "")},
			"NUL":            {file("a\x00b", "")},
			"too large":      {file("x", strings.Repeat("x", 101))},
			"too large all":  {file("x", strings.Repeat("x", 90)), file("y", strings.Repeat("x", 90))},
			"too many":       {file("1", ""), file("2", ""), file("3", ""), file("4", "")},
			"not so long":    nil,
			"negative size":  {{Path: "x", Size: -1}},
			"not clean path": {file("a//b", "")},
		}
		for name, files := range refused {
			if err := r.PutFiles(t.Context(), files); err == nil && files != nil {
				t.Errorf("%s: accepted", name)
			}
		}
		r.want(t, "echo on", "on\n")
	})
}

func TestCollectBringsWhatWasAskedForAndNothingElse(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		r.want(t, `mkdir -p out/deep/er closed other; echo one >out/1.txt; echo two >out/deep/2.txt; echo three >out/deep/er/3.txt
echo no >other/no.txt; printf '\0\377\1' >out/bin; : >out/empty
ln -s /etc/passwd out/link.txt; ln -s /etc out/dir; ln -s 1.txt out/same.txt; mkfifo out/fifo.txt
echo hidden >out/closed.txt; chmod 0 out/closed.txt; mkdir out/shut; echo x >out/shut/x.txt; chmod 0 out/shut
truncate -s 1000000000000 out/sparse.txt 2>/dev/null || dd if=/dev/zero of=out/sparse.txt bs=1 count=1 seek=99999999999 2>/dev/null`+"\n"+
			`printf x >"out/$(printf 'bad\377.txt')"`, "")
		got, c := r.artifacts(t, guest.Caps{Files: 10, Bytes: 1000}, "out/*.txt", "out/**/2.txt", "out/bin", "out/empty", "missing")
		want := map[string]string{"out/1.txt": "one\n", "out/deep/2.txt": "two\n", "out/bin": "\x00\xff\x01", "out/empty": ""}
		if fmt.Sprint(got) != fmt.Sprint(want) || c.Files != 4 || c.Bytes != 11 {
			t.Errorf("%q, %+v", got, c)
		}
		reasons := map[string]frame.SkipReason{}
		for _, s := range c.Skips {
			reasons[s.Path] = s.Reason
		}
		wantReasons := map[string]frame.SkipReason{
			"out/link.txt": frame.SkipType, "out/same.txt": frame.SkipType, "out/fifo.txt": frame.SkipType,
			"out/closed.txt": frame.SkipUnread, "out/shut": frame.SkipUnread, "out/sparse.txt": frame.SkipBytes,
			"": frame.SkipName,
		}
		if fmt.Sprint(reasons) != fmt.Sprint(wantReasons) || c.Skipped != len(wantReasons) {
			t.Errorf("skipped %d: %v", c.Skipped, reasons)
		}
		got, c = r.artifacts(t, guest.Caps{Files: 1, Bytes: 1000}, "out/deep/**")
		if len(got) != 1 || c.Skipped != 1 || c.Skips[0].Reason != frame.SkipCount {
			t.Errorf("%q, %+v", got, c)
		}
		if _, c = r.artifacts(t, guest.Caps{}, "**"); c.Files != 0 {
			t.Errorf("%+v", c)
		}
		r.want(t, "echo on", "on\n")
	})
}

func TestHugeTreesAreWalkedWithinBounds(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		r.want(t, `p=.; i=0; while [ $i -lt 140 ]; do p=$p/d; i=$((i+1)); done; mkdir -p $p; touch $p/x; i=0; while [ $i -lt 300 ]; do : >f$i; i=$((i+1)); done`, "")
		got, c := r.artifacts(t, guest.Caps{Files: 100, Bytes: 1000}, "**")
		if len(got) != 100 || c.Skipped != 201 || len(c.Skips) != frame.MaxSkipped {
			t.Errorf("%d files, %d skipped, %d named", len(got), c.Skipped, len(c.Skips))
		}
	})
}

func TestWallLimitKillsAndKeepsTheOutput(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		for name, script := range map[string]string{
			"a loop":           "echo before; while :; do :; done",
			"a sleep":          "echo before; sleep 1000",
			"one that stops":   "echo before; kill -STOP $$",
			"a pile of loops":  "echo before; for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait",
			"signals and ends": "trap '' TERM INT HUP; echo before; while :; do sleep 1; done",
		} {
			step := sh(script)
			step.Wall = 300 * time.Millisecond
			exit, out, _ := r.run(t, step)
			if !errors.Is(exit.Stopped, guest.ErrWall) || exit.Signal != syscall.SIGKILL || out != "before\n" {
				t.Errorf("%s: %+v, %q", name, exit, out)
			}
			if d := exit.Ended.Sub(exit.Started); d < step.Wall || d > step.Wall+10*time.Second {
				t.Errorf("%s: ended after %v", name, d)
			}
		}
		r.want(t, "echo on", "on\n")
	})
}

func TestOutputLimitIsExact(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		step := sh("yes & yes >&2")
		step.Output = 100_001
		exit, out, errs := r.run(t, step)
		if !errors.Is(exit.Stopped, guest.ErrOutput) || len(out)+len(errs) != 100_001 || exit.Stdout+exit.Stderr <= 100_001 {
			t.Errorf("%+v: %d + %d bytes", exit, len(out), len(errs))
		}
		step = sh("printf 12345; printf 67890 >&2")
		step.Output = 10
		if exit, _, _ := r.run(t, step); exit.Stopped != nil || exit.Stdout+exit.Stderr != 10 {
			t.Errorf("just as much as allowed: %+v", exit)
		}
	})
}

var errTest = errors.New("for a test")

func TestContextEndsAStepAndTheSessionGoesOn(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{})
		ctx, cancel := context.WithCancelCause(t.Context())
		step := sh("echo before; sleep 1000 & sleep 1000")
		exit, err := r.Run(ctx, guest.Step{Argv: step.Argv, Env: []string{"PATH=/bin"}, Dir: "/work", UID: 1000, GID: 1000},
			func(frame.Stream, []byte) error {
				cancel(errTest)
				return nil
			})
		if !errors.Is(err, errTest) || exit.Stopped != errTest || exit.Signal != syscall.SIGKILL || exit.Ended.IsZero() {
			t.Errorf("%+v, %v", exit, err)
		}
		// One that has ended before.
		if exit, _, _, err := r.try(ctx, sh("sleep 1000")); !errors.Is(err, errTest) || exit.Ended.IsZero() {
			t.Errorf("%+v, %v", exit, err)
		}
		exit, err = r.Run(t.Context(), guest.Step{Argv: []string{"/bin/yes"}, Dir: "/", UID: 1000, GID: 1000},
			func(frame.Stream, []byte) error { return errTest })
		if !errors.Is(err, errTest) || exit.Signal != syscall.SIGKILL {
			t.Errorf("output is refused: %+v, %v", exit, err)
		}
		r.want(t, "echo on", "on\n")
	})
}

// within fails the test if the box is not gone in time.
func (r *running) within(t *testing.T, d time.Duration, code int) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(d):
		t.Fatalf("box still runs after %v", d)
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code of the box %d, want %d", got, code)
	}
}

func TestSilenceOfTheWorkerEndsTheSandbox(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{Beat: time.Hour, Silence: 500 * time.Millisecond})
		start := time.Now()
		_, _, _, err := r.try(t.Context(), sh("sleep 1000"))
		if d := time.Since(start); !errors.Is(err, guest.ErrGone) || d < 500*time.Millisecond || d > 15*time.Second {
			t.Errorf("%v after %v", err, d)
		}
		r.within(t, 15*time.Second, 4)
	})
}

func TestBeatsKeepTheSandboxAlive(t *testing.T) {
	each(t, func(t *testing.T, b box) {
		r := b.start(t, guest.Settings{Beat: 100 * time.Millisecond, Silence: time.Second})
		r.want(t, "sleep 3; echo done", "done\n")
		// Between steps there are no beats, and none are missed.
		time.Sleep(2 * time.Second)
		r.want(t, "echo on", "on\n")
	})
}

func TestEndOfTheChannelEndsTheSandbox(t *testing.T) {
	ends := map[string]struct {
		end  func(r *running)
		code int
	}{
		"input closed":         {func(r *running) { r.w.Close() }, 3},
		"session closed":       {func(r *running) { _ = r.Close() }, 0},
		"session closed twice": {func(r *running) { _, _ = r.Close(), r.Close() }, 0},
	}
	each(t, func(t *testing.T, b box) {
		for name, e := range ends {
			t.Run(name+" while idle", func(t *testing.T) {
				r := b.start(t, guest.Settings{})
				e.end(r)
				r.within(t, 15*time.Second, e.code)
			})
			t.Run(name+" in a step", func(t *testing.T) {
				r := b.start(t, guest.Settings{})
				step := sh("trap '' TERM HUP; sleep 1000 & while :; do :; done")
				step.Started = func() { go e.end(r) }
				if _, _, _, err := r.try(t.Context(), step); !errors.Is(err, guest.ErrGone) && !errors.Is(err, guest.ErrClosed) {
					t.Errorf("%v", err)
				}
				r.within(t, 15*time.Second, e.code)
			})
		}
	})
}

func TestDeadSandboxLosesNoOutputThatItSent(t *testing.T) {
	r := native.start(t, guest.Settings{})
	var out bytes.Buffer
	_, err := r.Run(t.Context(), guest.Step{Argv: []string{"/bin/sh", "-c", "echo before; exec sleep 1000"}, Dir: "/", UID: 1000, GID: 1000},
		func(_ frame.Stream, data []byte) error {
			out.Write(data)
			if strings.HasSuffix(out.String(), "\n") {
				_ = r.cmd.Process.Kill()
			}
			return nil
		})
	if !errors.Is(err, guest.ErrGone) || out.String() != "before\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if _, _, _, err := r.try(t.Context(), sh("echo on")); !errors.Is(err, guest.ErrGone) {
		t.Errorf("step in a dead sandbox: %v", err)
	}
}

func TestSigtermEndsTheSandbox(t *testing.T) {
	r := native.start(t, guest.Settings{})
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.within(t, 15*time.Second, 6)
}

// An image of a registry has none of our directories.
func TestBareImageWorksAsWell(t *testing.T) {
	r := runscBare.start(t, guest.Settings{})
	if h := r.Hello(); h.Layout != frame.OneDisk || h.Disk != diskSize || !h.RootReadonly || len(h.Notes) != 0 {
		t.Errorf("%+v", h)
	}
	r.put(t, file("a", "x"))
	r.want(t, "cat a; for d in /work /tmp /dev/shm /home/sandlot; do touch $d/x && rm $d/x; done", "x")
	exit, out, errs := r.run(t, guest.Step{Argv: []string{"victim", "attack"}})
	if exit.Code != 0 || out != "" {
		t.Errorf("%s\n%s", out, errs)
	}
}

func TestSlowWorkerLosesNothing(t *testing.T) {
	const size, pause = 1 << 20, 3 * time.Second
	each(t, func(t *testing.T, b box) {
		for name, buffer := range map[string]int{"within the buffer": 4 << 20, "beyond the buffer": 64 << 10} {
			r := b.start(t, guest.Settings{Buffer: buffer, Beat: 100 * time.Millisecond, Silence: time.Second})
			var once sync.Once
			sum := sha256.New()
			exit, err := r.Run(t.Context(), guest.Step{
				Argv: []string{"/run/sandlot/agent/victim", "flood", fmt.Sprint(size)}, Dir: "/work", UID: 1000, GID: 1000,
			}, func(s frame.Stream, data []byte) error {
				once.Do(func() { time.Sleep(pause) })
				if s == frame.Stdout {
					sum.Write(data)
				}
				return nil
			})
			if err != nil || exit.Code != 0 || exit.Stdout != size || exit.Stderr != size {
				t.Fatalf("%s: %+v, %v", name, exit, err)
			}
			if waited := exit.Wall > pause/2; waited != (buffer < size) {
				t.Errorf("%s: the program took %v", name, exit.Wall)
			}
			got, _ := r.artifacts(t, guest.Caps{Files: 1, Bytes: 1000}, "sums")
			if want := fmt.Sprintf("%x ", sum.Sum(nil)); !strings.HasPrefix(got["sums"], want) {
				t.Errorf("%s: received %s, the program wrote %s", name, want, got["sums"])
			}
		}
	})
}

// Where the one disk cannot be had, each directory gets its own, and the agent says so.
func TestWithoutTheDiskEachDirectoryHasItsOwn(t *testing.T) {
	r := runscNoDisk.start(t, guest.Settings{})
	if h := r.Hello(); h.Layout != frame.ManyDisks || h.Disk != diskSize || len(h.Notes) != 1 {
		t.Errorf("%+v", h)
	}
	_, out, _ := r.run(t, sh(`for d in /work /tmp /dev/shm /home/sandlot; do dd if=/dev/zero of=$d/fill bs=1M count=9 2>/dev/null; wc -c <$d/fill; done`))
	if want := strings.Repeat(fmt.Sprintln(diskSize), 4); out != want {
		t.Errorf("%q", out)
	}
}

func BenchmarkStep(b *testing.B) {
	for _, kind := range []box{native, runsc} {
		b.Run(kind.name, func(b *testing.B) {
			r := kind.start(b, guest.Settings{})
			for b.Loop() {
				exit, _, _, err := r.try(b.Context(), guest.Step{Argv: []string{"/bin/true"}})
				if err != nil || exit.Code != 0 {
					b.Fatal(exit, err)
				}
			}
		})
	}
}
