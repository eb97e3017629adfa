package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/client"
)

// clientFlags says how to reach a server, for every command.
func (a *app) clientFlags(f *pflag.FlagSet) {
	f.StringVar(&a.dataDir, "data-dir", defaultDataDir(), "directory of the server's state; clients read its address and token there")
	f.StringVar(&a.server, "server", "", "URL of the server (default: from DIR/address)")
	f.StringVar(&a.token, "token", "", "token of the server (default: from DIR/token)")
	f.StringVar(&a.tenant, "tenant", "", "tenant to speak for, with the operator's token (default: the token's own, or default)")
	f.StringVar(&a.ca, "ca", "", "certificates (PEM) that sign the server's, instead of the system's")
	f.StringVar(&a.output, "output", "text", "text or json")
	withEnv(f, "data-dir", "server", "token", "tenant", "ca", "output")
}

// target is where the server is and the token it asks for.
func (a *app) target() (server, token string, err error) {
	server, token = a.server, a.token
	if server == "" {
		server, err = readLine(a.addressFile())
		if errors.Is(err, fs.ErrNotExist) {
			return "", "", noServerError{dataDir: a.dataDir}
		}
		if err != nil {
			return "", "", fmt.Errorf("find the server: %w", err)
		}
	}
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	if u, err := url.Parse(server); err != nil || u.Host == "" {
		return "", "", problems{fmt.Sprintf("--server %q: write a URL such as http://127.0.0.1:7455", server)}
	}
	if token == "" {
		token, err = readLine(filepath.Join(a.dataDir, "token"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("find the token: %w", err)
		}
	}
	return strings.TrimSuffix(server, "/"), token, nil
}

func readLine(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// client is a client of the server that the flags name.
func (a *app) client(patience time.Duration) (*client.Client, error) {
	server, token, err := a.target()
	if err != nil {
		return nil, err
	}
	config := client.Config{Server: server, Token: token, Tenant: a.tenant, Patience: patience, UserAgent: "sandlot-cli/" + version}
	next, err := transport(a.ca)
	if err != nil {
		return nil, err
	}
	config.HTTP = &http.Client{Transport: next}
	if a.server == "" {
		config.HTTP.Transport = &addressFollower{file: a.addressFile(), next: next}
	}
	return client.New(config), nil
}

// impatient is the patience of commands that a person waits for: a server
// that is not there is told at once.
const impatient = -1

func (a *app) addressFile() string { return filepath.Join(a.dataDir, "address") }

// transport trusts the system's certificates, or those of a file.
func transport(ca string) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64
	t.DisableCompression = true // would hold streams back
	if ca == "" {
		return t, nil
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, problems{fmt.Sprintf("--ca: %v", err)}
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
		return nil, problems{fmt.Sprintf("--ca %s: there is no certificate in it", ca)}
	}
	return t, nil
}

// addressFollower sends each request to where the server is now: one that
// was restarted may have another port.
type addressFollower struct {
	file string
	next http.RoundTripper
}

func (f *addressFollower) RoundTrip(r *http.Request) (*http.Response, error) {
	address, err := readLine(f.file)
	if err != nil {
		return f.next.RoundTrip(r)
	}
	now, err := url.Parse(address)
	if err != nil || now.Host == "" || now.Host == r.URL.Host {
		return f.next.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = now.Scheme, now.Host, now.Host
	return f.next.RoundTrip(r)
}
