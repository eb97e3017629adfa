package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// link is a TCP proxy that stands between a process and a server, and is the
// network between them: it can be cut, stalled, slow, or deaf in one
// direction. Bytes are never changed, unless a saboteur is set.
type link struct {
	name     string
	listener net.Listener
	target   string
	saboteur func(to io.Writer) io.WriteCloser // of what the client says; nil for none
	overhear func([]byte)                      // of what the server says; nil for none
	loops    sync.WaitGroup

	mu     sync.Mutex
	wake   *sync.Cond
	mode   mode
	delay  time.Duration
	conns  map[net.Conn]bool
	closed bool
}

// mode is what a link does with what is given to it.
type mode struct {
	// cut: connections end, new ones are refused.
	cut bool
	// up and down hold back what goes to the server and what comes from it.
	up, down bool
}

// newLink listens on a free port of the loopback.
func newLink(name, target string) (*link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{name: name, listener: listener, target: target, conns: map[net.Conn]bool{}}
	l.wake = sync.NewCond(&l.mu)
	return l, nil
}

// address is where the process finds the server.
func (l *link) address() string { return l.listener.Addr().String() }

// start serves until close.
func (l *link) start() { l.loops.Go(l.serve) }

func (l *link) serve() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		if l.state().cut {
			_ = client.Close()
			continue
		}
		server, err := net.DialTimeout("tcp", l.target, time.Second)
		if err != nil {
			_ = client.Close()
			continue
		}
		if !l.keep(client, server) {
			_ = client.Close()
			_ = server.Close()
			continue
		}
		l.loops.Go(func() { l.pump(server, client, false) })
		l.loops.Go(func() { l.pump(client, server, true) })
	}
}

func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.mode.cut {
		return false
	}
	for _, c := range conns {
		l.conns[c] = true
	}
	return true
}

// piece is some bytes on their way, and when they may arrive.
type piece struct {
	data []byte
	due  time.Time
}

// pump carries bytes one way until either end is gone.
func (l *link) pump(to, from net.Conn, down bool) {
	defer l.drop(to, from)
	var out io.Writer = to
	if !down && l.saboteur != nil {
		bad := l.saboteur(to)
		defer bad.Close()
		out = bad
	}
	way := make(chan piece, 64)
	done := make(chan struct{})
	l.loops.Go(func() {
		defer close(done)
		defer l.drop(to, from)
		for p := range way {
			time.Sleep(time.Until(p.due)) // the length of the wire
			if !l.pass(down) {
				return
			}
			if down && l.overhear != nil {
				l.overhear(p.data)
			}
			if _, err := out.Write(p.data); err != nil {
				return
			}
		}
	})
	defer func() { <-done }()
	defer close(way)
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			data := append([]byte(nil), buffer[:n]...)
			select {
			case way <- piece{data, time.Now().Add(l.wire())}:
			case <-done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits while the link holds back; false when it is closed.
func (l *link) pass(down bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed && (down && l.mode.down || !down && l.mode.up) {
		l.wake.Wait()
	}
	return !l.closed
}

func (l *link) wire() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delay
}

func (l *link) state() mode {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode
}

// set changes what the network does. What was held back goes on, unless
// reset has it lost with its connections.
func (l *link) set(m mode, delay time.Duration, reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mode, l.delay = m, delay
	if m.cut || reset {
		for c := range l.conns {
			_ = c.Close()
		}
		clear(l.conns)
	}
	l.wake.Broadcast()
}

// heal makes it a good network again.
func (l *link) heal(reset bool) { l.set(mode{}, 0, reset) }

func (l *link) drop(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(l.conns, c)
	}
	l.wake.Broadcast()
}

// close ends everything and waits for it.
func (l *link) close() {
	_ = l.listener.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.conns {
		_ = c.Close()
	}
	l.wake.Broadcast()
	l.mu.Unlock()
	l.loops.Wait()
}
