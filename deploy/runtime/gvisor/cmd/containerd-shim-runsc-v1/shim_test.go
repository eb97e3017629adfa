package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/protobuf/encoding/protowire"
)

func message(fields map[protowire.Number]string) []byte {
	var msg []byte
	for num, value := range fields {
		msg = protowire.AppendTag(msg, num, protowire.BytesType)
		msg = protowire.AppendString(msg, value)
	}
	msg = protowire.AppendTag(msg, 3, protowire.VarintType)
	return protowire.AppendVarint(msg, 4)
}

func TestSocketDirIsReadFromTheBootstrapMessageOfThisTask(t *testing.T) {
	whole := message(map[protowire.Number]string{fieldInstanceID: "a", fieldNamespace: "n", fieldSocketDir: "/run/x/s"})
	for name, c := range map[string]struct {
		input []byte
		want  string
	}{
		"the message of this task":        {whole, "/run/x/s"},
		"another task's message":          {message(map[protowire.Number]string{fieldInstanceID: "b", fieldNamespace: "n", fieldSocketDir: "/x"}), ""},
		"runtime options of an older one": {message(map[protowire.Number]string{1: "runtimeoptions.v1.Options", 2: "\x12\x04/cfg"}), ""},
		"nothing":                         {nil, ""},
		"a message that is cut":           {whole[:len(whole)-3], ""},
		"noise":                           {bytes.Repeat([]byte{0xff}, 64), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := socketDir(bytes.NewReader(c.input), "n", "a")
			if err != nil || got != c.want {
				t.Fatalf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func FuzzSocketDir(f *testing.F) {
	f.Add(message(map[protowire.Number]string{fieldInstanceID: "a", fieldNamespace: "n", fieldSocketDir: "/s"}))
	f.Fuzz(func(t *testing.T, input []byte) {
		if _, err := socketDir(bytes.NewReader(input), "n", "a"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDeadSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "s")
	first, err := listen(address)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := listen(address); err == nil {
		second.Close()
		t.Fatal("took a socket that somebody serves")
	}
	first.SetUnlinkOnClose(false)
	first.Close()
	second, err := listen(address)
	if err != nil {
		t.Fatalf("left the dead socket: %v", err)
	}
	second.Close()
}

func TestStopOfAShimThatCreatedNothingSucceeds(t *testing.T) {
	t.Chdir(t.TempDir())
	m := &manager{name: runtimeName}
	status, err := m.Stop(namespaces.WithNamespace(t.Context(), "n"), "a")
	if err != nil || status.ExitStatus != 137 {
		t.Fatalf("got %+v, %v", status, err)
	}
}

func TestKillDescendantsLeavesNone(t *testing.T) {
	// A shell with a child of its own; the parent is this test.
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	killDescendants(os.Getpid())
	// The sleeper holds the pipe: it ends only when both are dead.
	if err := cmd.Wait(); err == nil {
		t.Fatal("the shell survived")
	}
}

func TestOwnerIsGivenAsPidAndStartTime(t *testing.T) {
	if err := endWithOwner("17"); err == nil {
		t.Fatal("took an owner without a start time")
	}
	self, found := process(os.Getpid())
	if !found || self.parent != os.Getppid() || self.start == "" {
		t.Fatalf("read %+v of this process", self)
	}
}
