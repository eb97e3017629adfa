package sandboxtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

func testEnvironment(t *testing.T, s suite) {
	t.Setenv("SECRET_OF_THE_HOST", "seen")
	spec := Sh(s.image, "env")
	spec.Steps[0].Env = map[string]string{"GREETING": "hello world", "EMPTY": ""}
	task := Task(spec)
	task.Env = map[string]string{"TRACEPARENT": "00-11-22-01"}
	box, sink := Prepare(t, s.rt, task), new(Sink)
	if _, err := box.Run(t.Context(), sink); err != nil {
		t.Fatal(err)
	}
	Close(t, box)
	lines := strings.Split(strings.TrimSpace(sink.Text(0, "stdout")), "\n")
	for _, want := range []string{"GREETING=hello world", "EMPTY=", "TRACEPARENT=00-11-22-01"} {
		if !slices.Contains(lines, want) {
			t.Errorf("%q is missing in %q", want, lines)
		}
	}
	// What an image, a login or a shell sets; all else would be the host's.
	known := []string{"GREETING", "EMPTY", "TRACEPARENT", "PATH", "HOME", "USER", "LOGNAME", "PWD",
		"OLDPWD", "SHLVL", "SHELL", "LANG", "LC_ALL", "TMPDIR", "TERM", "HOSTNAME", "_"}
	for _, line := range lines {
		if name, _, _ := strings.Cut(line, "="); !slices.Contains(known, name) {
			t.Errorf("%q is not the job's", line)
		}
	}
}

func testWorkdir(t *testing.T, s suite) {
	spec := Sh(s.image, "pwd; mkdir -p a/b", "pwd", "pwd")
	spec.Steps[1].Workdir, spec.Steps[2].Workdir = "/work/a/b", "/tmp"
	a := Must(t, s.rt, spec)
	a.Want(t, "succeeded none exited")
	if got := a.Stdout(0) + a.Stdout(1) + a.Stdout(2); got != "/work\n/work/a/b\n/tmp\n" {
		t.Fatalf("steps started in %q", got)
	}
}

func testUser(t *testing.T, s suite) {
	if a := Must(t, s.rt, Sh(s.image, "id -u")); a.Stdout(0) != "1000\n" {
		t.Fatalf("user is %q", a.Stdout(0))
	}
}

func testFiles(t *testing.T, s suite) {
	binary := strings.Repeat("\x00\xff\x80binary", 30_000)
	spec := Sh(s.image,
		"cat hello.txt; cat deep/er/still/bin > copy; cat empty",
		"cat copy",
		"stat -c %a hello.txt; stat -c %a tool; stat -c %a deep/er/still/bin")
	spec.Files = []job.File{
		{Path: "hello.txt", Content: "hello\n"},
		{Path: "empty"},
		{Path: "deep/er/still/bin", Base64: []byte(binary)},
		{Path: "tool", Content: "#!/bin/sh\n", Executable: true},
	}
	a := Must(t, s.rt, spec)
	a.Want(t, "succeeded none exited")
	if a.Stdout(0) != "hello\n" || a.Stdout(1) != binary {
		t.Errorf("text is %q, binary file has %d bytes of %d", a.Stdout(0), len(a.Stdout(1)), len(binary))
	}
	if a.Stdout(2) != "644\n755\n644\n" {
		t.Errorf("modes are %q", a.Stdout(2))
	}
}

func testArtifacts(t *testing.T, s suite) {
	spec := Sh(s.image, "mkdir -p out/deep; echo one > out/one.txt; head -c 300000 /dev/zero > out/two.bin; "+
		"echo no > secret.log; echo deep > out/deep/three.txt; exit 5")
	spec.Artifacts = []string{"out/*", "out/deep/*.txt", "missing/*"}
	a := Must(t, s.rt, spec)
	a.Want(t, "failed program exited")
	got := a.Sink.Artifacts()
	want := map[string]string{"out/one.txt": "one\n", "out/two.bin": strings.Repeat("\x00", 300_000), "out/deep/three.txt": "deep\n"}
	for path, body := range want {
		if got[path] != body {
			t.Errorf("%s has %d bytes, want %d", path, len(got[path]), len(body))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d artifacts, want %d", len(got), len(want))
	}
}
