//go:build power

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// small is a Sandlot whose queue is on a small disk.
type small struct {
	t        *testing.T
	dir      string // of the disk
	clients  *clients
	nats     *testenv.NATSServer // nil for the embedded server
	instance *testenv.Instance
	program  testenv.Program

	mu  sync.Mutex
	ids []string
}

const smallSize = 160 << 20

// newSmall starts a server on a small disk, a scheduler, and a worker.
func newSmall(t *testing.T, embedded, watched bool) *small {
	need.Disk(t)
	binary := need.NATSServer(t)
	program, err := testenv.Build(testenv.ShortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &small{t: t, dir: t.TempDir(), program: program}
	if err := unix.Mount("small", s.dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallSize)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.dir, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	var url string
	if embedded {
		url = s.embedded()
	} else {
		s.nats = testenv.NATSServers(t, binary, testenv.NATSOptions{Dir: s.dir, Sync: "1s"})[0]
		url = s.nats.URL
	}
	q, err := queue.Open(t.Context(), queue.Config{URL: url, Name: "setup", Durability: queue.Balanced, Logger: testenv.Logger(t, "setup")})
	if err != nil {
		t.Fatal(err)
	}
	img := image
	img.CreatedAt = time.Now().UTC()
	if err := q.SetImage(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	q.Close()
	args := []string{"--nats", url, "--listen", "127.0.0.1:0"}
	if watched {
		args = append(args, "--nats-store", s.dir)
	}
	data := t.TempDir()
	s.instance = testenv.Serving(t, program.Role(t, "scheduler", data, args...), data)
	s.clients = &clients{url: s.instance.URL, token: s.instance.Token, http: &http.Client{Timeout: 20 * time.Second}}
	s.self("worker", role{Worker: &workerRole{ID: "w", URL: url, Dir: t.TempDir()}})
	s.instance.WaitForWorkers(t, 1)
	return s
}

// embedded starts the server of `sandlot up` as a process of its own.
func (s *small) embedded() string {
	m := machine{port: os.Getpid() % 20_000}
	address := m.address()
	s.self("server", role{Server: &queue.ServerConfig{Dir: filepath.Join(s.dir, "nats"), Listen: address, Token: natsToken}})
	return "nats://" + natsToken + "@" + address
}

func (s *small) self(name string, r role) {
	text, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	testenv.Start(s.t, testenv.Command{Name: name, Path: os.Args[0], Env: []string{roleVariable + "=" + string(text)}})
}

// submit submits a job of some size and says how it was answered.
func (s *small) submit(script string) (status int, problem api.Problem, header http.Header) {
	body, _ := json.Marshal(api.Submit{
		Image: image.Name, Command: []string{"sh", "-c", script}, Stdin: strings.Repeat("x", 12<<10),
	}) // plain values
	answer, err := s.clients.send(s.t.Context(), http.MethodPost, "/v1/jobs", "application/json", strings.NewReader(string(body)))
	if err != nil {
		return 0, problem, nil
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 == 2 {
		var j api.Job
		if err := json.NewDecoder(answer.Body).Decode(&j); err != nil {
			return 0, problem, nil // the answer did not arrive
		}
		s.mu.Lock()
		s.ids = append(s.ids, j.ID)
		s.mu.Unlock()
		return answer.StatusCode, problem, answer.Header
	}
	_ = json.NewDecoder(answer.Body).Decode(&problem)
	return answer.StatusCode, problem, answer.Header
}

// untilRefused submits until a job is refused for want of room.
func (s *small) untilRefused(why string) {
	s.t.Helper()
	var status int
	var problem api.Problem
	var header http.Header
	testenv.Eventually(s.t, time.Minute, "submits are refused", func() bool {
		status, problem, header = s.submit("sleep 0.2; echo done")
		return status != http.StatusAccepted && status != 0 && strings.Contains(problem.Detail, why)
	})
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		s.t.Errorf("refused with %d, %v, %+v", status, header, problem)
	}
}

// untilReady waits until /readyz answers with a status, and a reason in it.
func (s *small) untilReady(status int, why string) {
	s.t.Helper()
	testenv.Eventually(s.t, time.Minute, fmt.Sprintf("readiness is %d %s", status, why), func() bool {
		answer, err := s.clients.http.Get(s.clients.url + "/readyz")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		var h api.Health
		return json.NewDecoder(answer.Body).Decode(&h) == nil && answer.StatusCode == status && strings.Contains(h.Checks["disk"], why)
	})
}

// fill writes a file until so many bytes are left.
func (s *small) fill(left int64) (remove func()) {
	s.t.Helper()
	path := filepath.Join(s.dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for {
		var st unix.Statfs_t
		if err := unix.Statfs(s.dir, &st); err != nil {
			s.t.Fatal(err)
		}
		if int64(st.Bavail)*st.Bsize <= left {
			break
		}
		if _, err := f.Write(block); err != nil {
			break // full
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			s.t.Error(err)
		}
	}
}

// allEnd wants every job that was accepted to succeed, at an attempt that is
// the only one that finished.
func (s *small) allEnd() {
	s.t.Helper()
	s.t.Logf("%d jobs were accepted", len(s.ids))
	if len(s.ids) < 20 {
		s.t.Error("too few to say anything")
	}
	for _, id := range s.ids {
		var j api.Job
		testenv.Eventually(s.t, 2*time.Minute, "job "+id+" ends", func() bool {
			status, err := s.clients.ask(s.t.Context(), http.MethodGet, "/v1/jobs/"+id+"?wait=5s", nil, &j)
			if status == http.StatusNotFound {
				s.t.Fatalf("job %s is lost: %v", id, err)
			}
			return err == nil && j.State.Final()
		})
		finished := 0
		for _, a := range j.Attempts {
			if a.Outcome == job.Finished {
				finished++
			}
		}
		if j.State != job.Succeeded || finished != 1 {
			s.t.Errorf("job %s: %s, %d attempts finished: %+v", id, j.State, finished, j.Attempts)
		}
	}
}

// TestAcceptsStopBeforeTheDiskIsFull: what was accepted still has room, and
// nobody has to start anything again.
func TestAcceptsStopBeforeTheDiskIsFull(t *testing.T) {
	s := newSmall(t, false, true)
	s.untilReady(http.StatusOK, "ok")
	for range 30 {
		if status, problem, _ := s.submit("sleep 1; echo done"); status != http.StatusAccepted {
			t.Fatalf("%d %+v", status, problem)
		}
	}
	remove := s.fill(24 << 20)
	s.untilRefused("the disk of the queue's store has ")
	s.untilReady(http.StatusServiceUnavailable, "jobs are accepted from 32Mi on")
	doctor, _, code := s.program.Run(t, "doctor", "--server", s.clients.url, "--token", s.clients.token)
	if code == 0 || !strings.Contains(doctor, "the disk of the queue's store has ") {
		t.Errorf("doctor says %d %s", code, doctor)
	}
	s.allEnd() // meanwhile
	remove()
	s.untilReady(http.StatusOK, "ok")
	testenv.Eventually(t, time.Minute, "jobs are accepted again", func() bool {
		status, _, _ := s.submit("echo done")
		return status == http.StatusAccepted
	})
	s.allEnd()
}

// TestFullDiskLosesNothing fills the disk to the last byte under load. The
// embedded server starts itself again when there is room, nats-server is
// started again as docs/deploy.md says.
func TestFullDiskLosesNothing(t *testing.T) {
	for name, embedded := range map[string]bool{"embedded server": true, "nats-server": false} {
		t.Run(name, func(t *testing.T) {
			s := newSmall(t, embedded, false)
			for range 30 {
				s.submit("sleep 0.3; echo done")
			}
			remove := s.fill(0)
			s.untilRefused("")
			s.untilReady(http.StatusServiceUnavailable, "cannot write its store")
			before := len(s.ids)
			remove()
			if !embedded {
				s.nats.Kill(t)
				s.nats.Start(t)
				s.nats.AwaitReady(t)
			}
			testenv.Eventually(t, time.Minute, "jobs are accepted again", func() bool {
				status, _, _ := s.submit("echo done")
				return status == http.StatusAccepted
			})
			s.untilReady(http.StatusOK, "ok")
			if len(s.ids) <= before {
				t.Error("nothing was accepted afterwards")
			}
			s.allEnd()
		})
	}
}
