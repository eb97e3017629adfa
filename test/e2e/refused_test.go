package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// testTooLarge submits jobs that no worker could ever take.
func testTooLarge(t *testing.T, up *testenv.Instance) {
	for name, limits := range map[string]api.Limits{
		"memory": {Memory: 1 << 50},
		"cpu":    {CPU: 5000},
	} {
		submit := sh("echo hello")
		submit.Limits = limits
		_, err := up.Client.Submit(t.Context(), submit, 0)
		var problem *api.Problem
		if !errors.As(err, &problem) || problem.Status != 422 || !strings.Contains(problem.Error(), "limits."+name) {
			t.Errorf("too much %s is answered by %v", name, err)
		}
	}
}

// testRefused submits what cannot be accepted: each is answered by a problem
// that names the field, and nothing of it is begun.
func testRefused(t *testing.T, up *testenv.Instance) {
	run(t, up.Client, sh("echo the newest"))
	before := newest(t, up)
	for name, row := range map[string]struct {
		body, field string
		status      int
	}{
		"broken JSON":        {body: `{"image":`, status: 400},
		"unknown field":      {body: `{"image":"busybox","command":["true"],"colour":"red"}`, field: "colour", status: 422},
		"wrong type":         {body: `{"image":"busybox","command":"true"}`, field: "command", status: 422},
		"nothing to run":     {body: `{"image":"busybox"}`, status: 422},
		"unknown image":      {body: `{"image":"no-such-image","command":["true"]}`, field: "image", status: 422},
		"path upwards":       {body: `{"image":"busybox","command":["true"],"files":[{"path":"../x","content":""}]}`, field: "files[0].path", status: 422},
		"absolute path":      {body: `{"image":"busybox","command":["true"],"files":[{"path":"/etc/x","content":""}]}`, field: "files[0].path", status: 422},
		"NUL in a path":      {body: `{"image":"busybox","command":["true"],"files":[{"path":"a\u0000b","content":""}]}`, field: "files[0].path", status: 422},
		"negative limit":     {body: `{"image":"busybox","command":["true"],"limits":{"memory":-1}}`, field: "limits.memory", status: 422},
		"absurd limit":       {body: `{"image":"busybox","command":["true"],"limits":{"wall_ms":"100000h"}}`, field: "limits.wall_ms", status: 422},
		"disk above memory":  {body: `{"image":"busybox","command":["true"],"limits":{"memory":"64Mi","disk":"128Mi"}}`, field: "limits.disk", status: 422},
		"network is not had": {body: `{"image":"busybox","command":["true"],"network":"host"}`, field: "network", status: 422},
	} {
		_, err := up.Client.SubmitJSON(t.Context(), []byte(row.body), "", 0)
		var problem *api.Problem
		if !errors.As(err, &problem) || problem.Status != row.status || !strings.Contains(problem.Error(), row.field) {
			t.Errorf("%s is answered by %v, want %d and %q", name, err, row.status, row.field)
		}
	}
	if after := newest(t, up); after != before {
		t.Errorf("a job came of it: %s", after)
	}
}

// newest is the job that was accepted last.
func newest(t *testing.T, up *testenv.Instance) string {
	t.Helper()
	list, err := up.Client.List(t.Context(), client.ListOptions{Limit: 1})
	if err != nil || len(list.Jobs) == 0 {
		t.Fatalf("list jobs: %v", err)
	}
	return list.Jobs[0].ID
}

// testSymlink wants no way out of the work directory through a symbolic link.
func testSymlink(t *testing.T, up *testenv.Instance) {
	submit := sh("ln -s /etc out; ln -s /etc/passwd passwd; echo mine > own")
	submit.Artifacts = []string{"out/*", "passwd", "own"}
	done := run(t, up.Client, submit)
	wantVerdict(t, done, "succeeded none exited")
	for _, a := range done.Artifacts {
		if filepath.Base(a.Path) != "own" {
			t.Errorf("artifact %q came out through a link: %+v", a.Path, a)
		}
	}
	if len(done.Artifacts) != 1 || done.Artifacts[0].Bytes != int64(len("mine\n")) {
		t.Errorf("artifacts are %+v", done.Artifacts)
	}
}
