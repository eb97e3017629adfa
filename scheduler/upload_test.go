package scheduler_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// breaker stands between a queue and its server. It has one write of a batch
// reach the server, and breaks the connection before the answer.
type breaker struct {
	mu sync.Mutex
	// left is how many writes pass before that one; negative for all.
	left int
	done sync.WaitGroup
}

// behind starts a breaker in front of the world's server and has the
// scheduler use it.
func (w *world) behind() *breaker {
	w.t.Helper()
	w.stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	b := &breaker{left: -1}
	target := strings.TrimPrefix(w.server.URL(), "nats://")
	b.done.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			b.done.Go(func() { b.pass(client, server.(*net.TCPConn)) })
		}
	})
	w.t.Cleanup(b.done.Wait)
	w.t.Cleanup(func() { _ = l.Close() })
	q, err := queue.Open(w.ctx, queue.Config{URL: "nats://" + token + "@" + l.Addr().String(), Name: "behind", Logger: w.log})
	must(w.t, err)
	w.t.Cleanup(q.Close)
	w.queue = q
	w.start("127.0.0.1:0")
	w.t.Cleanup(func() { w.stop() })
	return b
}

func (b *breaker) pass(client net.Conn, server *net.TCPConn) {
	defer server.Close()
	b.done.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	defer client.Close()
	buffer := make([]byte, 1<<20)
	for {
		n, err := client.Read(buffer)
		last := b.last(buffer[:n])
		if last {
			_ = client.Close() // nothing of the answer gets through
		}
		if _, writeErr := server.Write(buffer[:n]); err != nil || writeErr != nil || last {
			_ = server.CloseWrite()
			_, _ = io.Copy(io.Discard, server)
			return
		}
	}
}

// last reports whether what is said is the write to break after.
func (b *breaker) last(said []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 0 || !bytes.Contains(said, []byte("PUB $KV.BATCH.")) {
		return false
	}
	b.left--
	return b.left < 0
}

func (b *breaker) after(writes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = writes
}

func (b *breaker) broke() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left < 0
}

// TestALostAnswerStoresNoLineTwice loses the answer to each of the writes that
// an upload makes: the first, those of its segments, the one that opens it.
func TestALostAnswerStoresNoLineTwice(t *testing.T) {
	w := newWorld(t, nil)
	b := w.behind()
	const n = 5001 // two segments
	for writes := range 4 {
		t.Run(fmt.Sprint(writes), func(t *testing.T) {
			b.after(writes)
			got := w.uploaded(lines(n))
			if got.Lines != n || got.Jobs != n || got.State != job.BatchRunning {
				t.Errorf("of %d lines %d are stored as %d jobs, %s", n, got.Lines, got.Jobs, got.State)
			}
			if !b.broke() {
				t.Error("no answer was lost")
			}
			_, err := w.client.CancelBatch(w.ctx, got.ID)
			must(t, err)
			w.finished(got.ID) // so that nobody else writes
		})
	}
}
