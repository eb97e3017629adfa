package queue_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a queue and its server and can go deaf: what the queue
// says arrives, what the server answers does not.
type proxy struct {
	listen net.Listener
	done   sync.WaitGroup

	mu     sync.Mutex
	target string
	deaf   bool
	lose   string        // what is said with this in it gets lost, once
	asked  chan struct{} // closed at the first question about a stream
	conns  []net.Conn
}

// between starts a proxy in front of a server and returns the URL to use.
func between(t testing.TB, server string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: u.Host, listen: l, asked: make(chan struct{})}
	p.done.Go(p.serve)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.done.Wait()
	})
	u.Host = l.Addr().String()
	return p, u.String()
}

func (p *proxy) serve() {
	for {
		client, err := p.listen.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		server, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.done.Go(func() {
			defer server.Close()
			_, _ = io.Copy(saying{p, server}, client)
		})
		p.done.Go(func() {
			defer client.Close()
			_, _ = io.Copy(hearing{p, client}, server)
		})
	}
}

// saying passes on what the queue says, and notes when it asks.
type saying struct {
	p *proxy
	io.Writer
}

func (s saying) Write(b []byte) (int, error) {
	s.p.mu.Lock()
	lost := s.p.lose != "" && bytes.Contains(b, []byte(s.p.lose))
	if lost {
		s.p.lose = ""
	}
	s.p.mu.Unlock()
	if lost {
		return len(b), nil
	}
	if bytes.Contains(b, []byte("$JS.API.STREAM.")) {
		s.p.mu.Lock()
		select {
		case <-s.p.asked:
		default:
			close(s.p.asked)
		}
		s.p.mu.Unlock()
	}
	return s.Writer.Write(b)
}

// hearing passes on what the server says, unless the proxy is deaf.
type hearing struct {
	p *proxy
	io.Writer
}

func (h hearing) Write(b []byte) (int, error) {
	h.p.mu.Lock()
	deaf := h.p.deaf
	h.p.mu.Unlock()
	if deaf {
		return len(b), nil
	}
	return h.Writer.Write(b)
}

// loseOnce has the next thing that is said with the text in it get lost.
func (p *proxy) loseOnce(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = text
}

// lost reports whether it has been.
func (p *proxy) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lose == ""
}

// goDeaf drops all answers from now on.
func (p *proxy) goDeaf() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
}

// recover ends all connections; the next ones hear again.
func (p *proxy) recover() {
	p.mu.Lock()
	p.deaf = false
	p.mu.Unlock()
	p.cut()
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}
