package testenv

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// NATSServer is a nats-server process whose files outlive it: it may be
// killed and started again.
type NATSServer struct {
	*Process // the last that was started
	Name     string
	URL      string // for clients
	Dir      string // of its store and its configuration

	binary, monitor string
}

// NATSOptions describe servers for NATSServers. The zero value is one server
// that syncs every second.
type NATSOptions struct {
	// Cluster is how many servers form a cluster; 1 if zero.
	Cluster int
	// Sync is the server's sync_interval; "always" in a cluster and "1s"
	// else by default.
	Sync string
	// Dir holds the stores; a temporary directory by default.
	Dir string
	// Extra is added to each server's configuration.
	Extra string
}

// NATSServers starts servers, each on ports and with a store of its own, and
// waits until they are ready. They end with the test.
func NATSServers(t testing.TB, binary string, o NATSOptions) []*NATSServer {
	t.Helper()
	if o.Cluster == 0 {
		o.Cluster = 1
	}
	if o.Sync == "" {
		o.Sync = "1s"
		if o.Cluster > 1 {
			o.Sync = "always"
		}
	}
	if o.Dir == "" {
		o.Dir = ShortDir(t)
	}
	ports := freePorts(t, 3*o.Cluster)
	all := make([]*NATSServer, o.Cluster)
	for i := range all {
		name := fmt.Sprintf("n%d", i+1)
		s := &NATSServer{
			Name: name, URL: "nats://" + loopback(ports[3*i]), Dir: filepath.Join(o.Dir, name),
			binary: binary, monitor: loopback(ports[3*i+1]),
		}
		text := fmt.Sprintf("server_name: %s\nlisten: %q\nhttp: %q\njetstream {\n  store_dir: %q\n  max_file_store: 1TB\n  sync_interval: %q\n}\n%s\n",
			name, loopback(ports[3*i]), s.monitor, s.Dir, o.Sync, o.Extra)
		if o.Cluster > 1 {
			var routes []string
			for j := range all {
				routes = append(routes, fmt.Sprintf("%q", "nats-route://"+loopback(ports[3*j+2])))
			}
			text += fmt.Sprintf("cluster {\n  name: sandlot\n  listen: %q\n  routes: [%s]\n}\n",
				loopback(ports[3*i+2]), strings.Join(routes, ", "))
		}
		if err := os.MkdirAll(s.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.config(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		all[i] = s
	}
	for _, s := range all {
		s.Start(t)
	}
	for _, s := range all {
		s.AwaitReady(t)
	}
	return all
}

// NATSURL is what clients of all the servers are told.
func NATSURL(all []*NATSServer) string {
	var urls []string
	for _, s := range all {
		urls = append(urls, s.URL)
	}
	return strings.Join(urls, ",")
}

func (s *NATSServer) config() string { return filepath.Join(s.Dir, "nats.conf") }

// Start starts the server, again if it was killed, and does not wait.
func (s *NATSServer) Start(t testing.TB) {
	t.Helper()
	s.Process = Start(t, Command{Name: "nats-server " + s.Name, Path: s.binary, Args: []string{"-c", s.config()}})
}

// AwaitReady waits until the server says that it is healthy: its streams are
// there, and in a cluster up to date.
func (s *NATSServer) AwaitReady(t testing.TB) {
	t.Helper()
	quick := http.Client{Timeout: 2 * time.Second}
	Eventually(t, time.Minute, "nats-server "+s.Name+" is healthy", func() bool {
		s.Alive(t)
		answer, err := quick.Get("http://" + s.monitor + "/healthz")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// NATS starts one server and returns its URL once it is ready.
func NATS(t testing.TB, binary string) string {
	t.Helper()
	return NATSServers(t, binary, NATSOptions{})[0].URL
}

// freePorts are ports of the loopback address that nobody listens on. They
// are given up for a moment; nobody else asks for them by chance.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
