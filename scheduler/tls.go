package scheduler

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// TLS names the PEM files to serve HTTPS with; both or none.
type TLS struct{ Cert, Key string }

func (t TLS) scheme() string {
	if t.Cert == "" {
		return "http"
	}
	return "https"
}

// listen takes the address, for HTTPS if there is a certificate.
func (t TLS) listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil || t.Cert == "" {
		return l, err
	}
	pair := &certificate{TLS: t}
	if _, err := pair.get(nil); err != nil {
		_ = l.Close()
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: pair.get, NextProtos: []string{"h2", "http/1.1"},
	}), nil
}

// certificate is read anew when its file changes, so that renewing it needs
// no restart.
type certificate struct {
	TLS

	mu      sync.Mutex
	current *tls.Certificate
	written time.Time // of the file that current was read from
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.Cert)
	if err == nil && c.current != nil && info.ModTime().Equal(c.written) {
		return c.current, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.Cert, c.Key)
	}
	if err != nil {
		if c.current != nil {
			return c.current, nil // half-way through being replaced
		}
		return nil, fmt.Errorf("certificate: %w", err)
	}
	c.current, c.written = &pair, info.ModTime()
	return c.current, nil
}
