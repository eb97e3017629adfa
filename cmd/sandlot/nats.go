package main

import (
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// natsConfig is the NATS that a role works on.
type natsConfig struct {
	// URL of the server, or several with commas between.
	URL string
	// TokenFile holds the token that the server asks for, Creds is a
	// credentials file; both are optional.
	TokenFile, Creds string
	// Replicas of each stream; 0 for what the durability needs.
	Replicas int
	// Durability is what a loss of power may take; empty for what is
	// installed. Change has what is installed changed to it.
	Durability string
	Change     bool
	// Listen is where an embedded server listens; only of `up`.
	Listen string
}

func (c *natsConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.URL, "nats", c.URL, "URL of the NATS server, several with commas between")
	f.StringVar(&c.TokenFile, "nats-token-file", c.TokenFile, "file with the token of the NATS server")
	f.StringVar(&c.Creds, "nats-creds", c.Creds, "credentials file for the NATS server")
	withEnv(f, "nats", "nats-token-file", "nats-creds")
}

// durabilityFlags are for the roles that make the streams.
func (c *natsConfig) durabilityFlags(f *pflag.FlagSet, usage string) {
	f.StringVar(&c.Durability, "durability", c.Durability, usage)
	f.BoolVar(&c.Change, "change-durability", false, "change what is installed to --durability; no worker may run meanwhile")
	withEnv(f, "durability")
}

func (c *natsConfig) wrong() problems {
	var p problems
	for _, one := range strings.Split(c.URL, ",") {
		u, err := url.Parse(one)
		p.check(err == nil && u.Host != "", "--nats %q: write a URL such as nats://127.0.0.1:4222", one)
	}
	for flag, file := range map[string]string{"--nats-token-file": c.TokenFile, "--nats-creds": c.Creds} {
		if file != "" {
			_, err := os.Stat(file)
			p.check(err == nil, "%s %s: %v", flag, file, err)
		}
	}
	return p
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
