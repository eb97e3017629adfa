package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/scheduler"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// The settings of the roles. `up` is a scheduler and a worker on an embedded
// NATS, so it shares theirs; what follows from that is set in upConfig.

func defaultScheduler() schedulerConfig {
	return schedulerConfig{Listen: "127.0.0.1:7455", Retention: 24 * time.Hour, BatchItems: 1_000_000, BatchSegment: 10_000}
}

func defaultWorker(drain time.Duration) workerConfig {
	return workerConfig{
		Pool: job.DefaultPool, Classes: []string{job.DefaultClass}, Slots: runtime.NumCPU(), Drain: drain, RuntimeDir: runtimeDir(),
		Runtime: string(gvisor.Resident), Spares: 2 * runtime.NumCPU(),
	}
}

// runtimeDir is what --runtime-dir is where a command has no such flag.
func runtimeDir() string { return os.Getenv(envName("runtime-dir")) }

// schedulerConfig is how a scheduler is set up.
type schedulerConfig struct {
	// Listen is the address of the HTTP API.
	Listen string
	// Retention is how long results are kept.
	Retention time.Duration
	// Gateway has it serve HTTP and leave the release to others; only of
	// `scheduler`.
	Gateway bool
	// TLSCert and TLSKey are the files to serve HTTPS with; empty for HTTP.
	TLSCert, TLSKey string
	// BatchItems is how many items a batch may have.
	BatchItems int
	// BatchSegment is how many results of a batch are stored as one object.
	BatchSegment int
	// CallbackAllow are the hosts that may be told of the end of a batch,
	// CallbackPrivate networks among them that are not public, CallbackCA a
	// file of authorities to trust instead of the system's.
	CallbackAllow, CallbackPrivate []string
	CallbackCA                     string
}

func (c *schedulerConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.Listen, "listen", c.Listen, "address of the HTTP API")
	f.DurationVar(&c.Retention, "retention", c.Retention, "how long results are kept")
	f.StringVar(&c.TLSCert, "tls-cert", c.TLSCert, "certificate (PEM) to serve the API by HTTPS; read anew when it changes")
	f.StringVar(&c.TLSKey, "tls-key", c.TLSKey, "private key (PEM) of --tls-cert")
	f.IntVar(&c.BatchItems, "batch-items", c.BatchItems, "how many items a batch may have")
	f.IntVar(&c.BatchSegment, "batch-segment", c.BatchSegment, "how many results of a batch are stored as one object")
	f.StringSliceVar(&c.CallbackAllow, "callback-allow", nil, "hosts that may be told of the end of a batch: example.org, *.example.org, example.org:8443, * for all")
	f.StringSliceVar(&c.CallbackPrivate, "callback-private", nil, "networks that callbacks may reach although they are not public, such as 10.1.0.0/16")
	f.StringVar(&c.CallbackCA, "callback-ca", "", "file of PEM certificates that callbacks trust (default: the system's)")
	withEnv(f, "listen", "retention", "batch-items", "batch-segment", "callback-allow", "callback-private", "callback-ca", "tls-cert", "tls-key")
}

func (c *schedulerConfig) wrong() problems {
	var p problems
	p.checkAddress("--listen", c.Listen)
	p.check((c.TLSCert == "") == (c.TLSKey == ""), "--tls-cert and --tls-key: give both or none")
	if c.TLSCert != "" && c.TLSKey != "" {
		_, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		p.check(err == nil, "--tls-cert %s, --tls-key %s: %v", c.TLSCert, c.TLSKey, err)
	}
	p.check(c.Retention >= time.Minute, "--retention %s: write at least 1m", c.Retention)
	p.check(c.BatchItems >= 1, "--batch-items %d: write a number from 1", c.BatchItems)
	p.check(c.BatchSegment >= 1 && c.BatchSegment <= 10_000, "--batch-segment %d: write a number from 1 to 10000", c.BatchSegment)
	if _, err := c.callbacks(); err != nil {
		p.addf("%v", err)
	}
	return p
}

// callbacks are the settings for callbacks, read.
func (c *schedulerConfig) callbacks() (scheduler.Callbacks, error) {
	out := scheduler.Callbacks{Allow: c.CallbackAllow}
	for _, text := range c.CallbackPrivate {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return out, fmt.Errorf("--callback-private %q: write a network such as 10.1.0.0/16", text)
		}
		out.Private = append(out.Private, network.Masked())
	}
	if c.CallbackCA == "" {
		return out, nil
	}
	pem, err := os.ReadFile(c.CallbackCA)
	if err != nil {
		return out, fmt.Errorf("--callback-ca: %w", err)
	}
	out.Roots = x509.NewCertPool()
	if !out.Roots.AppendCertsFromPEM(pem) {
		return out, fmt.Errorf("--callback-ca %s: has no certificate in PEM", c.CallbackCA)
	}
	return out, nil
}

// workerConfig is how a worker is set up.
type workerConfig struct {
	// ID names the worker among all; made of host and data directory if empty.
	ID string
	// Pool is the pool that it takes jobs from, Classes are those it takes.
	Pool    string
	Classes []string
	// Labels tell it from others, written name=value.
	Labels []string
	// Slots is how many jobs it runs at once.
	Slots int
	// Containerd is the socket of the host's containerd; empty for one of
	// our own.
	Containerd string
	// RuntimeDir is where runsc, containerd and the rest are looked for first.
	RuntimeDir string
	// Runtime is what makes the sandboxes; see gvisor.Choice.
	Runtime string
	// Spares is how many sandboxes are booted ahead of their jobs at most.
	Spares int
	// Drain is how long running jobs may go on after the worker is told to stop.
	Drain time.Duration
}

func (c *workerConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.ID, "id", c.ID, "name of this worker, unique among all (default: from host and data directory)")
	f.StringVar(&c.Pool, "pool", c.Pool, "pool to take jobs from")
	f.StringSliceVar(&c.Classes, "class", c.Classes, "classes of the pool to take jobs of, such as s,m")
	f.StringSliceVar(&c.Labels, "worker-label", nil, "NAME=VALUE to tell the worker from others")
	f.IntVar(&c.Slots, "slots", c.Slots, "how many jobs to run at once")
	f.StringVar(&c.Containerd, "containerd", c.Containerd, "socket of the host's containerd (default: start one of our own)")
	f.StringVar(&c.RuntimeDir, "runtime-dir", c.RuntimeDir, "where to find runsc, containerd and the shim (default: beside sandlot)")
	f.StringVar(&c.Runtime, "runtime", c.Runtime, runtimeUsage)
	f.IntVar(&c.Spares, "spares", c.Spares, "how many sandboxes to boot ahead at most, for jobs like those before; 0: none")
	f.DurationVar(&c.Drain, "drain", c.Drain, "how long running jobs may go on after a signal to stop")
	withEnv(f, "id", "pool", "class", "worker-label", "slots", "containerd", "runtime-dir", "runtime", "spares", "drain")
}

const runtimeUsage = "what makes the sandboxes: resident, one process for all; or stock, gVisor's shim, a process for each, which costs more"

// plainName is what ids and pools may look like: they become parts of NATS
// subjects.
var plainName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

func (c *workerConfig) wrong() problems {
	var p problems
	p.check(c.ID == "" || plainName.MatchString(c.ID), "--id %q: write 1 to 64 small letters, digits and dashes", c.ID)
	p.check(api.BadPool(c.Pool) == "", "--pool %q: %s", c.Pool, api.BadPool(c.Pool))
	p.check(len(c.Classes) > 0, "--class: name at least one")
	for _, class := range c.Classes {
		p.check(api.BadPool(class) == "", "--class %q: %s", class, api.BadPool(class))
	}
	pairs("--worker-label", c.Labels, nil, &p)
	p.check(c.Slots >= 1 && c.Slots <= 1024, "--slots %d: write a number from 1 to 1024", c.Slots)
	if err := gvisor.Choice(c.Runtime).Valid(); err != nil {
		p.addf("--%v", err)
	}
	p.check(c.Spares >= 0 && c.Spares <= 1024, "--spares %d: write a number from 0 to 1024", c.Spares)
	p.check(c.Drain >= 0, "--drain %s: write a duration of 0 or more", c.Drain)
	if c.Containerd != "" {
		_, err := os.Stat(strings.TrimPrefix(c.Containerd, "unix://"))
		p.check(err == nil, "--containerd %s: there is no such socket", c.Containerd)
	}
	return p
}

// checkAddress wants host:port with a number for a port.
func (p *problems) checkAddress(flag, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		p.addf("%s %q: write host:port, such as 127.0.0.1:7455", flag, address)
		return
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		p.addf("%s %q: %s is not a port", flag, address, port)
	}
	if host != "" && net.ParseIP(host) == nil && host != "localhost" {
		p.addf("%s %q: write an IP address to listen on, not a name", flag, address)
	}
}

// hostID is the host's name as a worker's id may be written.
func hostID() string {
	name, err := os.Hostname()
	if err != nil {
		return "worker"
	}
	name = strings.Trim(regexp.MustCompile(`[^a-z0-9-]+`).ReplaceAllString(strings.ToLower(name), "-"), "-")
	if len(name) > 48 {
		name = strings.TrimRight(name[:48], "-")
	}
	if name == "" {
		return "worker"
	}
	return name
}
