package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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

// testOwnerEnv makes this program a shim that starts processes without end.
const testOwnerEnv = "SHIM_TEST_OWNER"

func TestMain(m *testing.M) {
	owner := os.Getenv(testOwnerEnv)
	if owner == "" {
		os.Exit(m.Run())
	}
	if err := endWithOwner(owner); err != nil {
		panic(err)
	}
	for {
		cmd := exec.Command("sleep", "20")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		os.Stdout.WriteString(".")
	}
}

func TestNothingIsStartedBehindTheEndOfTheOwner(t *testing.T) {
	for range 5 {
		owner := exec.Command("sleep", "1000")
		if err := owner.Start(); err != nil {
			t.Fatal(err)
		}
		now, _ := process(owner.Process.Pid)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d:%s", testOwnerEnv, owner.Process.Pid, now.start))
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		_ = owner.Process.Kill()
		_ = owner.Wait()
		_ = cmd.Wait()
		// Each child holds the pipe: it ends only when all are dead.
		if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("a child has survived: %v", err)
		}
		r.Close()
	}
}
