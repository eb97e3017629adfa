package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// setup says what a cluster is made of.
type setup struct {
	Sandlot, NATS string // binaries
	Nodes         int    // of NATS: 1 or 3
	Schedulers    int
	Workers       int
	Slots         int    // of each worker
	Out           string // directory for logs
	Sabotage      string // a deliberate bug; empty for none
	Real          bool   // sandlot worker with gVisor instead of scripted ones
	// Quiet is how long all may take to end once all is well.
	Quiet time.Duration
}

// image is what all jobs run; scripted sandboxes only want a name.
var image = queue.Image{Name: "busybox", Digest: "sha256:" + strings.Repeat("1", 64), Source: "chaos"}

// token is that of all schedulers.
const token = "token-of-chaos"

// cluster is a Sandlot of real processes with a bad network between them.
type cluster struct {
	setup
	dir        string // state; removed at the end
	nodes      []*node
	schedulers []*gateway
	workers    []*client
	port       int // the last one that was given out
}

// node is a server of NATS. routes are its links to the others' route ports.
type node struct {
	*member
	address, routeAddress string
	routes                map[int]*link
	dir                   string
}

// client is a process that speaks to every node over a link of its own.
type client struct {
	*member
	links []*link
}

// gateway is a scheduler, with the address of its API.
type gateway struct {
	client
	url string
}

// newCluster lays a cluster out; start starts it.
func newCluster(s setup) (*cluster, error) {
	dir, err := os.MkdirTemp("", "sandlot-chaos-")
	if err != nil {
		return nil, err
	}
	c := &cluster{setup: s, dir: dir, port: rand.IntN(20_000)}
	if err := errors.Join(c.layNodes(), c.layClients()); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// freeAddress is one of the loopback that nobody listens at. It is below the
// ports that the kernel gives to those who name none: a server that is down
// must find its own free when it comes back.
func (c *cluster) freeAddress() (string, error) {
	for range 1000 {
		c.port = 10_000 + (c.port+1)%20_000 // none twice
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", c.port))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("no free port found in 1000 tries")
}

func (c *cluster) layNodes() (err error) {
	for i := range c.Nodes {
		n := &node{routes: map[int]*link{}, dir: filepath.Join(c.dir, fmt.Sprintf("n%d", i))}
		if n.address, err = c.freeAddress(); err != nil {
			return err
		}
		if n.routeAddress, err = c.freeAddress(); err != nil {
			return err
		}
		config := n.dir + ".conf"
		n.member = &member{name: fmt.Sprintf("nats%d", i), logDir: c.Out, command: func(int) *exec.Cmd {
			return exec.Command(c.NATS, "-c", config)
		}}
		c.nodes = append(c.nodes, n)
	}
	for i, n := range c.nodes {
		for j, other := range c.nodes {
			if i == j {
				continue
			}
			if n.routes[j], err = newLink(fmt.Sprintf("%s-%s", n.name, other.name), other.routeAddress); err != nil {
				return err
			}
		}
		if err := os.WriteFile(n.dir+".conf", []byte(n.config()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// config is a node's configuration. The durability is that of the profiles
// balanced (one node) and cluster (three).
func (n *node) config() string {
	sync := `"1s"`
	if len(n.routes) > 0 {
		sync = "always"
	}
	text := fmt.Sprintf("server_name: %s\nlisten: %s\njetstream { store_dir: %q, sync_interval: %s }\n", n.name, n.address, n.dir, sync)
	if len(n.routes) == 0 {
		return text
	}
	var routes []string
	for _, l := range n.routes {
		routes = append(routes, "nats-route://"+l.address())
	}
	// Nobody is told the true address of anybody: all ways lead over a link.
	return text + fmt.Sprintf("cluster { name: chaos, listen: %s, advertise: \"127.0.0.1:1\", no_advertise: true, pool_size: -1, routes: [%s] }\n",
		n.routeAddress, strings.Join(routes, ", "))
}

func (c *cluster) layClients() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range c.Schedulers {
		g := &gateway{}
		address, err := c.freeAddress()
		if err != nil {
			return err
		}
		g.url = "http://" + address
		if g.client, err = c.layClient(fmt.Sprintf("s%d", i)); err != nil {
			return err
		}
		dir := filepath.Join(c.dir, g.name)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "token"), []byte(token+"\n"), 0o600)); err != nil {
			return err
		}
		g.command = func(int) *exec.Cmd {
			return c.sandlot("scheduler", "--data-dir", dir, "--listen", address, "--nats", g.urls(),
				"--replicas", fmt.Sprint(c.Nodes), "--batch-segment", "30", "--log-level", "debug")
		}
		c.schedulers = append(c.schedulers, g)
	}
	for i := range c.Workers {
		w, err := c.layClient(fmt.Sprintf("w%d", i))
		if err != nil {
			return err
		}
		dir := filepath.Join(c.dir, w.name)
		w.command = func(life int) *exec.Cmd {
			if c.Real {
				return c.sandlot("worker", "--data-dir", dir, "--id", w.name, "--pool", c.poolOf(i), "--nats", w.urls(), "--slots", fmt.Sprint(c.Slots), "--drain", "3s", "--log-level", "debug")
			}
			settings, _ := json.Marshal(workerSettings{ // plain fields, always valid
				ID: w.name, Pool: c.poolOf(i), Process: fmt.Sprintf("%s.%d", w.name, life), URL: w.urls(), Dir: dir,
				Journal: filepath.Join(c.Out, "executions.jsonl"), Slots: c.Slots, Replicas: c.Nodes, Drain: 3 * time.Second,
			})
			cmd := exec.Command(self)
			cmd.Env = append(plainEnv(), workerRole+"="+string(settings))
			return cmd
		}
		c.workers = append(c.workers, &w)
	}
	return nil
}

func (c *cluster) layClient(name string) (client, error) {
	p := client{member: &member{name: name, logDir: c.Out}}
	for _, n := range c.nodes {
		l, err := newLink(name+"-"+n.name, n.address)
		if err != nil {
			return p, err
		}
		if err := sabotage(c, l, name); err != nil {
			return p, err
		}
		p.links = append(p.links, l)
	}
	return p, nil
}

func (p *client) urls() string {
	var all []string
	for _, l := range p.links {
		all = append(all, "nats://"+l.address())
	}
	return strings.Join(all, ",")
}

func (c *cluster) sandlot(args ...string) *exec.Cmd {
	cmd := exec.Command(c.Sandlot, args...)
	cmd.Env = append(plainEnv(), "SANDLOT_RUNTIME_DIR="+filepath.Dir(c.NATS))
	return cmd
}

// plainEnv has nothing that would set up a role.
func plainEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}
}

// links are all there are.
func (c *cluster) links() []*link {
	var all []*link
	for _, n := range c.nodes {
		for _, l := range n.routes {
			all = append(all, l)
		}
	}
	for _, g := range c.schedulers {
		all = append(all, g.links...)
	}
	for _, w := range c.workers {
		all = append(all, w.links...)
	}
	return all
}

// members are all processes, servers first.
func (c *cluster) members() []*member {
	var all []*member
	for _, n := range c.nodes {
		all = append(all, n.member)
	}
	for _, g := range c.schedulers {
		all = append(all, g.member)
	}
	for _, w := range c.workers {
		all = append(all, w.member)
	}
	return all
}

// start starts everything and waits until it works.
func (c *cluster) start(ctx context.Context) error {
	for _, l := range c.links() {
		l.start()
	}
	for _, n := range c.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	if err := c.install(ctx); err != nil {
		return err
	}
	for _, g := range c.schedulers {
		if err := g.start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, g := range c.schedulers {
		if err := g.ready(ctx, 0); err != nil {
			return err
		}
	}
	if c.hasSidePool() {
		if err := c.put(ctx, "/v1/pools/"+sidePool, map[string]any{}); err != nil {
			return err
		}
	}
	for _, w := range c.workers {
		if err := w.start(); err != nil {
			return err
		}
	}
	for _, g := range c.schedulers {
		if err := g.ready(ctx, c.Workers); err != nil {
			return err
		}
	}
	return errors.Join(
		c.storeImage(),
		c.setTenant(ctx, tenants[1], map[string]any{"weight": 4, "max_running": 10}),
		c.setTenant(ctx, tenants[2], map[string]any{"weight": 2}),
	)
}

// storeImage stores the image that real sandboxes run.
func (c *cluster) storeImage() error {
	if !c.Real {
		return nil
	}
	out, err := c.sandlot("image", "build", image.Name, "--server", c.schedulers[0].url, "--token", token).CombinedOutput()
	if err != nil {
		return fmt.Errorf("store image: %w: %s", err, out)
	}
	return nil
}

// install lays out the queue and names the image that all jobs run.
func (c *cluster) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := os.Create(filepath.Join(c.Out, "install.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	log := slog.New(slog.NewTextHandler(out, nil))
	q, err := queue.Open(ctx, queue.Config{URL: c.direct(), Name: "chaos-setup", Replicas: c.Nodes, Logger: log})
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer q.Close()
	img := image
	img.CreatedAt = time.Now().UTC()
	if !c.Real { // else the image itself is stored, once there is somebody to take it
		if err := again(ctx, func() error { return q.SetImage(ctx, img) }); err != nil {
			return fmt.Errorf("install image: %w", err)
		}
	}
	return c.tap(ctx)
}

// tapped is where every revision of a record is told.
const tapped = "chaos.tap."

// tap has the servers tell every message that they store in the streams of
// records, which keep no history.
func (c *cluster) tap(ctx context.Context) error {
	nc, err := nats.Connect(c.direct(), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return again(ctx, func() error {
		names := js.StreamNames(ctx, jetstream.WithStreamListSubject("r.>"))
		for name := range names.Name() {
			s, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			config := s.CachedInfo().Config
			config.RePublish = &jetstream.RePublish{Source: config.Subjects[0], Destination: tapped + config.Subjects[0], HeadersOnly: true}
			if _, err := js.UpdateStream(ctx, config); err != nil {
				return fmt.Errorf("tap %s: %w", name, err)
			}
		}
		return names.Err()
	})
}

// again tries until it works or ctx ends.
func again(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || sleep(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

// direct is where the servers are, past all links.
func (c *cluster) direct() string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, "nats://"+n.address)
	}
	return strings.Join(all, ",")
}

// ready waits until a scheduler serves and sees so many workers.
func (g *gateway) ready(ctx context.Context, workers int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var list struct {
			Workers []json.RawMessage `json:"workers"`
		}
		err := g.get(ctx, "", "/v1/workers", &list)
		if err == nil && len(list.Workers) >= workers {
			return nil
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("%s is not ready with %d workers: %d, %w", g.name, workers, len(list.Workers), err)
		}
	}
}

// get asks the API for a tenant, once.
func (g *gateway) get(ctx context.Context, tenant, path string, into any) error {
	return g.call(ctx, http.MethodGet, tenant, path, nil, into)
}

func (g *gateway) call(ctx context.Context, method, tenant, path string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	authorize(req, tenant)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return &statusError{answer.StatusCode, string(body)}
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// authorize has the operator ask for a tenant.
func authorize(req *http.Request, tenant string) {
	req.Header.Set("Authorization", "Bearer "+token)
	if tenant != "" {
		req.Header.Set("Sandlot-Tenant", tenant)
	}
}

// tenants share the cluster; the first is there without being made.
var tenants = []string{"default", "t1", "t2"}

// setTenant says what a tenant may take.
func (c *cluster) setTenant(ctx context.Context, id string, settings map[string]any) error {
	return c.put(ctx, "/v1/tenants/"+id, settings)
}

// put sets something, until some scheduler has heard it.
func (c *cluster) put(ctx context.Context, path string, settings map[string]any) error {
	body, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	n := 0
	return again(ctx, func() error {
		n++
		var out json.RawMessage
		return c.schedulers[n%len(c.schedulers)].call(ctx, http.MethodPut, "", path, body, &out)
	})
}

// sidePool is a second pool, which the last worker is in if there are enough.
const sidePool = "side"

func (c *cluster) hasSidePool() bool { return c.Workers >= 4 }

// poolOf is the pool of a worker.
func (c *cluster) poolOf(worker int) string {
	if c.hasSidePool() && worker == c.Workers-1 {
		return sidePool
	}
	return "main"
}

type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// broken says which process ended by itself.
func (c *cluster) broken() (all []check.Finding) {
	for _, m := range c.members() {
		if err := m.fault(); err != nil {
			all = append(all, check.Finding{Rule: "processes live until they are ended", Text: err.Error()})
		}
	}
	return all
}

// stop ends all processes, the servers last, and finds those that do not end
// when they are asked to.
func (c *cluster) stop() (found []check.Finding) {
	members := c.members()
	for i := len(members) - 1; i >= 0; i-- {
		members[i].resume()
		if members[i].stop(20 * time.Second) {
			found = append(found, check.Finding{Rule: "processes end when asked to", Text: members[i].name + " had to be killed 20 s after SIGTERM"})
		}
	}
	return found
}

// close ends whatever is left and removes the state.
func (c *cluster) close() {
	for _, m := range c.members() {
		m.kill()
	}
	for _, l := range c.links() {
		l.close()
	}
	_ = os.RemoveAll(c.dir)
}

// sleep waits, or says why it could not.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
