package main

import (
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// natsConfig is the NATS that a role works on.
type natsConfig struct {
	// URL of the server, or several with commas between.
	URL string
	// TokenFile holds the token that the server asks for, Creds is a
	// credentials file; both are optional.
	TokenFile, Creds string
	// NKey is the file of the role's key, see `sandlot nats roles`; CA, Cert
	// and Key are for tls://. All are optional.
	NKey          string
	CA, Cert, Key string
	// Replicas of each stream; 0 for what the durability needs.
	Replicas int
	// Durability is what a loss of power may take; empty for what is
	// installed. Change has what is installed changed to it.
	Durability string
	Change     bool
	// Listen is where an embedded server listens; only of `up`.
	Listen string
	// Store is where the server keeps its files, where a scheduler can see
	// them; only of `scheduler`. MinFree is how much the disk must have left
	// for a job to be accepted, 0 for the default.
	Store   string
	MinFree bytesFlag
}

func (c *natsConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.URL, "nats", c.URL, "URL of the NATS server, several with commas between")
	f.StringVar(&c.TokenFile, "nats-token-file", c.TokenFile, "file with the token of the NATS server")
	f.StringVar(&c.Creds, "nats-creds", c.Creds, "credentials file for the NATS server")
	f.StringVar(&c.NKey, "nats-nkey", c.NKey, "file with the key of this role, made by sandlot nats roles")
	f.StringVar(&c.CA, "nats-ca", c.CA, "certificates (PEM) that sign the NATS server's, instead of the system's")
	f.StringVar(&c.Cert, "nats-cert", c.Cert, "certificate (PEM) to show to the NATS server")
	f.StringVar(&c.Key, "nats-key", c.Key, "private key (PEM) of --nats-cert")
	withEnv(f, "nats", "nats-token-file", "nats-creds", "nats-nkey", "nats-ca", "nats-cert", "nats-key")
}

// durabilityFlags are for the roles that make the streams.
func (c *natsConfig) durabilityFlags(f *pflag.FlagSet, usage string) {
	f.StringVar(&c.Durability, "durability", c.Durability, usage)
	f.BoolVar(&c.Change, "change-durability", false, "change what is installed to --durability; no worker may run meanwhile")
	withEnv(f, "durability")
}

// roomFlag is for the roles that accept jobs.
func (c *natsConfig) roomFlag(f *pflag.FlagSet) {
	f.Var(&c.MinFree, "min-free", "accept no jobs while the disk of the queue's store has less left, such as 2Gi (default: 2 % of it, from 32Mi to 1Gi)")
	withEnv(f, "min-free")
}

func (c *natsConfig) wrong() problems {
	var p problems
	if c.Store != "" {
		_, err := os.Stat(c.Store)
		p.check(err == nil, "--nats-store %s: %v", c.Store, err)
	}
	p.check(c.MinFree == 0 || c.Store != "", "--min-free: say by --nats-store where the NATS server keeps its files")
	for _, one := range strings.Split(c.URL, ",") {
		u, err := url.Parse(one)
		p.check(err == nil && u.Host != "", "--nats %q: write a URL such as nats://127.0.0.1:4222", one)
	}
	p.check((c.Cert == "") == (c.Key == ""), "--nats-cert and --nats-key: give both or none")
	if c.NKey != "" {
		_, err := queue.ReadKey(c.NKey)
		p.check(err == nil, "--nats-nkey: %v", err)
	}
	for flag, file := range map[string]string{
		"--nats-token-file": c.TokenFile, "--nats-creds": c.Creds,
		"--nats-ca": c.CA, "--nats-cert": c.Cert, "--nats-key": c.Key,
	} {
		if file != "" {
			_, err := os.Stat(file)
			p.check(err == nil, "%s %s: %v", flag, file, err)
		}
	}
	return p
}

// queue is how to connect as a role.
func (c *natsConfig) queue(role queue.Role) queue.Config {
	return queue.Config{
		URL: c.url(), CredsFile: c.Creds, KeyFile: c.NKey, Role: role, TLS: queue.TLS{CA: c.CA, Cert: c.Cert, Key: c.Key},
		Replicas: c.Replicas, Durability: queue.Profile(c.Durability), ChangeDurability: c.Change,
		StoreDir: c.Store, MinFree: int64(c.MinFree),
	}
}

// url is URL with the token in it.
func (c *natsConfig) url() string {
	if c.TokenFile == "" {
		return c.URL
	}
	token, err := readLine(c.TokenFile)
	if err != nil {
		return c.URL // refused by the server, which the caller reports
	}
	var all []string
	for _, one := range strings.Split(c.URL, ",") {
		if u, err := url.Parse(one); err == nil {
			u.User = url.User(token)
			one = u.String()
		}
		all = append(all, one)
	}
	return strings.Join(all, ",")
}

// String is URL without passwords.
func (c *natsConfig) String() string {
	var all []string
	for _, one := range strings.Split(c.URL, ",") {
		if u, err := url.Parse(one); err == nil {
			if u.User != nil {
				u.User = url.User("…")
			}
			one = u.String()
		}
		all = append(all, one)
	}
	return strings.Join(all, ",")
}
