package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
)

func TestStartNamesTheRuntimeThatServes(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if _, problem := run("start", socket); !strings.Contains(problem, "does not serve") {
		t.Errorf("without a runtime it says %q", problem)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	answer, problem := run("start", socket)
	if want := `{"version":2,"address":"unix://` + socket + `","protocol":"ttrpc"}`; string(answer) != want || problem != "" {
		t.Errorf("answer %q, problem %q", answer, problem)
	}
}

func TestDeleteAnswersThatTheTaskWasKilled(t *testing.T) {
	before := time.Now().Truncate(time.Second)
	answer, problem := run("delete", "")
	var got task.DeleteResponse
	if err := proto.Unmarshal(answer, &got); err != nil || problem != "" {
		t.Fatal(err, problem)
	}
	if got.ExitStatus != 137 || got.ExitedAt.AsTime().Before(before) || got.ExitedAt.AsTime().After(time.Now()) {
		t.Errorf("answer %v", &got)
	}
}

func TestInfoNamesTheRuntime(t *testing.T) {
	answer, problem := run("-info", "")
	var got types.RuntimeInfo
	if err := proto.Unmarshal(answer, &got); err != nil || problem != "" || got.Name != "io.containerd.sandlot.v1" {
		t.Errorf("answer %v, error %v, problem %q", &got, err, problem)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	for name, c := range map[string]struct{ action, socket, want string }{
		"no socket":      {"start", "", socketEnv},
		"a quoted one":   {"start", `/a"b`, socketEnv},
		"another action": {"stop", "/s", "none of start"},
	} {
		t.Run(name, func(t *testing.T) {
			if answer, problem := run(c.action, c.socket); answer != nil || !strings.Contains(problem, c.want) {
				t.Errorf("answer %q, problem %q", answer, problem)
			}
		})
	}
}
