package client

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says which server and how patient.
type Config struct {
	// Server is the base URL; "http://" is assumed where no scheme is given.
	Server string
	// Token goes with every request.
	Token string
	// Tenant is whom the operator's token speaks for; a tenant's own token
	// needs none. Optional.
	Tenant string
	// Patience is how long calls that are safe to repeat are repeated while
	// the server cannot be reached; 30 s by default, negative for never.
	Patience time.Duration
	// HTTP is the client used; one without an overall timeout by default.
	HTTP *http.Client
	// UserAgent is sent along; "sandlot-go" by default.
	UserAgent string
}

// Client is safe for use by many goroutines.
type Client struct {
	base     string
	token    string
	tenant   string
	agent    string
	patience time.Duration
	http     *http.Client
}

// New makes a client; it does not connect.
func New(cfg Config) *Client {
	base := strings.TrimRight(cfg.Server, "/")
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	c := &Client{base: base, token: cfg.Token, tenant: cfg.Tenant, agent: cfg.UserAgent, patience: cfg.Patience, http: cfg.HTTP}
	if c.agent == "" {
		c.agent = "sandlot-go"
	}
	if c.patience == 0 {
		c.patience = 30 * time.Second
	}
	if c.http == nil {
		c.http = &http.Client{Transport: transport()}
	}
	return c
}

// transport is the default one with room for many calls to one host and
// without compression, which would hold streams back.
func transport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64
	t.DisableCompression = true
	return t
}

// path joins segments below /v1, each escaped.
func path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}
