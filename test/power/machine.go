package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// setup says what loses its power.
type setup struct {
	Sandlot, NATS string // binaries
	// Profile is the durability; Embedded has the server of `sandlot up`
	// instead of nats-server.
	Profile  queue.Profile
	Embedded bool
	Out      string // directory for logs
}

// nodes is how many servers there are, each with a disk of its own.
func (s setup) nodes() int {
	if s.Profile == queue.Cluster {
		return 3
	}
	return 1
}

// sync is the server's sync_interval, as docs/deploy.md says.
func (s setup) sync() string {
	switch s.Profile {
	case queue.Fast:
		return "2m"
	case queue.Balanced:
		return "1s"
	}
	return "always"
}

// mounts are options of ext4: its own, and two that take away what it does for
// those who forget to sync.
var mounts = []string{"", "noauto_da_alloc", "noauto_da_alloc,data=writeback"}

// machine is everything that loses its power at once: NATS servers and a
// scheduler on disks that forget, and workers with scripted sandboxes.
type machine struct {
	setup
	dir   string
	rand  *rand.Rand
	disks []*disk
	power *supply
	// nats, monitor and route are the addresses of the servers, http that of
	// the scheduler.
	nats, monitor, route []string
	http                 string
	boots                int
	processes            []*process
	stopStirring         func()
	port                 int
}

func newMachine(s setup, seed uint64) (*machine, error) {
	dir, err := os.MkdirTemp("", "sandlot-power-")
	if err != nil {
		return nil, err
	}
	m := &machine{setup: s, dir: dir, rand: rand.New(rand.NewPCG(seed, 1)), port: rand.IntN(20_000), stopStirring: func() {}, power: newSupply()}
	options := mounts[m.rand.IntN(len(mounts))]
	for i := range s.nodes() {
		d, err := newDisk(filepath.Join(dir, fmt.Sprintf("disk%d", i)), options)
		if err != nil {
			return nil, errors.Join(err, m.close())
		}
		m.disks = append(m.disks, d)
		m.nats, m.monitor, m.route = append(m.nats, m.address()), append(m.monitor, m.address()), append(m.route, m.address())
	}
	m.http = m.address()
	return m, nil
}

// address is one of the loopback that nobody listens at, below the ports that
// the kernel gives to those who name none.
func (m *machine) address() string {
	for {
		m.port = 10_000 + (m.port+1)%20_000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", m.port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
}

// url is where the servers are.
func (m *machine) url() string {
	var all []string
	for _, a := range m.nats {
		all = append(all, "nats://"+natsToken+"@"+a)
	}
	return strings.Join(all, ",")
}

// natsToken is that of the servers.
const natsToken = "token-of-power"

// switchOn mounts the disks and starts the servers, waits for them, and has
// the product make what it finds missing, as every scheduler does at its start.
func (m *machine) switchOn(ctx context.Context) error {
	m.boots++
	m.power = newSupply()
	for i, d := range m.disks {
		if err := d.mount(m.power); err != nil {
			return err
		}
		if err := m.startServer(i); err != nil {
			return err
		}
	}
	m.stir()
	err := until(ctx, 90*time.Second, "the servers are ready", func() error {
		for i := range m.disks {
			if err := m.serves(i); err != nil {
				return errors.Join(err, m.alive())
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.install(ctx)
}

// serves reports why a server is not ready. One of several says so itself; one
// alone listens once it is. It may miss streams, which the scheduler makes
// anew of what is stored.
func (m *machine) serves(i int) error {
	if len(m.disks) > 1 {
		return healthy("http://" + m.monitor[i] + "/healthz")
	}
	c, err := net.Dial("tcp", m.nats[i])
	if err != nil {
		return err
	}
	return c.Close()
}

func healthy(url string) error {
	quick := http.Client{Timeout: 2 * time.Second}
	answer, err := quick.Get(url)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	return nil
}

func (m *machine) startServer(i int) error {
	store := filepath.Join(m.disks[i].place(), "nats")
	if m.Embedded {
		return m.startSelf("server", role{Server: &queue.ServerConfig{Dir: store, Listen: m.nats[i], Token: natsToken, Profile: m.Profile}})
	}
	text := fmt.Sprintf("server_name: n%d\nlisten: %q\nhttp: %q\nauthorization { token: %q }\njetstream { store_dir: %q, sync_interval: %q, max_file_store: 100GB }\n",
		i, m.nats[i], m.monitor[i], natsToken, store, m.sync())
	if len(m.disks) > 1 {
		var routes []string
		for _, a := range m.route {
			routes = append(routes, fmt.Sprintf("%q", "nats-route://"+a))
		}
		text += fmt.Sprintf("cluster { name: power, listen: %q, routes: [%s] }\n", m.route[i], strings.Join(routes, ", "))
	}
	file := filepath.Join(m.dir, fmt.Sprintf("n%d.conf", i))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	return m.run(fmt.Sprintf("nats%d", i), exec.Command(m.NATS, "-c", file))
}

// visibleStore is where the store is, for a scheduler beside the one server.
func (m *machine) visibleStore() string {
	if len(m.disks) > 1 {
		return ""
	}
	return filepath.Join(m.disks[0].place(), "nats")
}

// startRest starts the scheduler and the workers and waits until they work.
func (m *machine) startRest(ctx context.Context) (*clients, error) {
	data := filepath.Join(m.disks[0].place(), "scheduler")
	cmd := exec.Command(m.Sandlot, "scheduler", "--data-dir", data, "--listen", m.http, "--nats", m.url(), "--durability", string(m.Profile))
	if dir := m.visibleStore(); dir != "" {
		cmd.Args = append(cmd.Args, "--nats-store", dir)
	}
	if err := m.run("scheduler", cmd); err != nil {
		return nil, err
	}
	for i := range 2 {
		name := fmt.Sprintf("w%d", i)
		w := workerRole{ID: name, URL: m.url(), Dir: filepath.Join(m.dir, name), Profile: m.Profile}
		if err := m.startSelf(name, role{Worker: &w}); err != nil {
			return nil, err
		}
	}
	c := &clients{url: "http://" + m.http, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}, Timeout: 20 * time.Second}}
	return c, until(ctx, 90*time.Second, "scheduler and workers are ready", func() error {
		text, err := os.ReadFile(filepath.Join(data, "token"))
		if err != nil {
			return errors.Join(err, m.alive())
		}
		c.token = strings.TrimSpace(string(text))
		var list struct {
			Workers []json.RawMessage `json:"workers"`
		}
		if _, err := c.ask(ctx, http.MethodGet, "/v1/workers", nil, &list); err != nil {
			return errors.Join(err, m.alive())
		}
		if len(list.Workers) < 2 {
			return errors.New("not all workers are there")
		}
		return nil
	})
}

// stir has the kernel write some pages of some files early, as it does when
// memory is short: out of order, and with nobody having asked for it.
func (m *machine) stir() {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, d := range m.disks {
		r := rand.New(rand.NewPCG(m.rand.Uint64(), 2))
		all.Go(func() {
			for ctx.Err() == nil {
				var files []string
				_ = filepath.WalkDir(d.place(), func(path string, e fs.DirEntry, err error) error {
					if err == nil && e.Type().IsRegular() {
						files = append(files, path)
					}
					return nil
				})
				for range 4 {
					if len(files) > 0 {
						writeSome(files[r.IntN(len(files))], r)
					}
					_ = sleep(ctx, time.Duration(5+r.IntN(40))*time.Millisecond)
				}
			}
		})
	}
	m.stopStirring = func() { cancel(); all.Wait() }
}

func writeSome(path string, r *rand.Rand) {
	f, err := os.Open(path)
	if err != nil {
		return // gone meanwhile
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return
	}
	const syncWrite = 2 // SYNC_FILE_RANGE_WRITE
	_ = unix.SyncFileRange(int(f.Fd()), r.Int64N(info.Size()), 1+r.Int64N(64<<10), syncWrite)
}

// loss is what a cut did.
type loss struct {
	at          time.Time
	pages, lost int
}

// cut is a loss of power: the disks stop at one instant, everything dies.
func (m *machine) cut() (loss, error) {
	l := loss{at: m.power.cutAfter(m.rand.IntN(50), time.Second)}
	m.end()
	for _, d := range m.disks {
		pages, lost, err := d.lose(m.rand)
		if err != nil {
			return l, err
		}
		l.pages, l.lost = l.pages+pages, l.lost+lost
	}
	return l, nil
}

// end ends all processes, of which some hang in the disk, and the power.
func (m *machine) end() {
	for _, p := range m.processes {
		_ = p.cmd.Process.Kill()
	}
	m.power.release()
	for _, p := range m.processes {
		<-p.done
	}
	m.processes = nil
	m.stopStirring()
}

func (m *machine) close() error {
	m.end()
	var err error
	for _, d := range m.disks {
		err = errors.Join(err, d.close())
	}
	if err != nil {
		return err // what is mounted must not be removed
	}
	return os.RemoveAll(m.dir)
}

// process is a program on the machine.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

func (m *machine) run(name string, cmd *exec.Cmd) error {
	out, err := os.Create(filepath.Join(m.Out, fmt.Sprintf("%s.%d.log", name, m.boots)))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, cmd.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	m.processes = append(m.processes, p)
	go func() {
		_ = cmd.Wait() // it is killed
		close(p.done)
	}()
	return nil
}

// startSelf starts this program in a role.
func (m *machine) startSelf(name string, r role) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = []string{roleVariable + "=" + string(text)}
	return m.run(name, cmd)
}

// alive says which process has ended although the power is on.
func (m *machine) alive() error {
	for _, p := range m.processes {
		select {
		case <-p.done:
			return fmt.Errorf("%s has ended by itself: %w", p.name, errGone)
		default:
		}
	}
	return nil
}

var errGone = errors.New("see its log")

// until tries until it works, a process is gone, or it takes too long.
func until(ctx context.Context, patience time.Duration, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if errors.Is(err, errGone) || sleep(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}

// sleep waits, or says why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
