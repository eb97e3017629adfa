package main

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// pump carries one output stream from the program's pipe to the channel. It reads as fast as the program writes and
// holds up to limit bytes when the channel is slower; beyond that the program waits. Nothing is ever dropped.
type pump struct {
	step   uint32
	stream frame.Stream
	file   *os.File
	limit  int
	run    sync.WaitGroup

	mu    sync.Mutex
	moved sync.Cond // data, eof or the room for more has changed
	data  []byte
	eof   bool
}

func newPump(step uint32, stream frame.Stream, file *os.File, limit int) *pump {
	p := &pump{step: step, stream: stream, file: file, limit: limit}
	p.moved.L = &p.mu
	return p
}

func (p *pump) start(a *agent) {
	p.run.Go(p.read)
	p.run.Go(func() { p.write(a) })
}

// finish is called when no process of the job is left. It returns after the end of the stream was sent.
func (p *pump) finish() {
	// The end of the pipe alone is not enough: its other end may be held by nobody and still be open, when it was
	// sent through a socket that nobody reads.
	p.file.SetReadDeadline(past()) //nolint:errcheck // a pipe has deadlines
	p.run.Wait()
	p.file.Close() //nolint:errcheck // only read from
}

func (p *pump) read() {
	buf := make([]byte, frame.MaxData)
	for {
		n, err := p.file.Read(buf)
		p.add(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.drain(buf)
			break
		}
		if err != nil {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eof = true
	p.moved.Broadcast()
}

// drain reads what is in the pipe and does not wait for more.
func (p *pump) drain(buf []byte) {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	conn.Control(func(fd uintptr) { //nolint:errcheck // the file is open
		for {
			n, err := unix.Read(int(fd), buf)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			p.add(buf[:n])
		}
	})
}

// add waits for room.
func (p *pump) add(data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) > 0 && len(p.data)+len(data) > p.limit {
		p.moved.Wait()
	}
	p.data = append(p.data, data...)
	p.moved.Broadcast()
}

// take waits for data; it gives none when the stream has ended.
func (p *pump) take(buf []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) == 0 && !p.eof {
		p.moved.Wait()
	}
	n := copy(buf, p.data)
	p.data = p.data[n:]
	if len(p.data) == 0 {
		p.data = nil
	}
	p.moved.Broadcast()
	return n
}

func (p *pump) write(a *agent) {
	buf := make([]byte, frame.MaxData)
	end := &frame.OutputEOF{Step: p.step, Stream: p.stream}
	for {
		n := p.take(buf)
		if n == 0 {
			a.send(end)
			return
		}
		a.send(&frame.Output{Step: p.step, Stream: p.stream, Seq: end.Chunks, Data: buf[:n]})
		end.Chunks++
		end.Bytes += int64(n)
	}
}
