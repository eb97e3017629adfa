package worker

import (
	"context"
	"sync"
	"time"
)

const (
	// logChunk is the most that one message of LOGS holds, logDelay the
	// longest that output waits for more of its kind.
	logChunk = 32 << 10
	logDelay = 250 * time.Millisecond
	// logBuffer is how much may wait for the queue. Beyond it chunks are
	// dropped: a slow log must not slow the program, and the result holds
	// everything anyway.
	logBuffer = 32 * logChunk
)

// chunk is a piece of output on its way to those who follow the job.
type chunk struct {
	step   int
	stream Stream
	// offset counts the bytes of the stream before this piece; a gap shows
	// that pieces were dropped.
	offset int64
	data   []byte
}

// logger sends a job's output to those who follow it, while it runs.
type logger struct {
	// send does not wait; false means that the chunk was dropped.
	send func(chunk) bool
	wake chan struct{}

	mu      sync.Mutex
	offsets map[captureKey]int64
	chunks  []chunk // in order; the last one may still grow
	held    int     // bytes in chunks
	dropped int64
	closed  bool
}

func newLogger(send func(chunk) bool) *logger {
	return &logger{send: send, wake: make(chan struct{}, 1), offsets: map[captureKey]int64{}}
}

// write takes what a step wrote; it never waits.
func (l *logger) write(step int, stream Stream, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := captureKey{step, stream}
	for len(data) > 0 {
		c := l.room(key)
		if c == nil {
			l.dropped += int64(len(data))
			l.offsets[key] += int64(len(data))
			break
		}
		n := min(len(data), logChunk-len(c.data))
		c.data = append(c.data, data[:n]...)
		l.offsets[key] += int64(n)
		l.held += n
		data = data[n:]
	}
	if l.held >= logChunk {
		l.poke()
	}
}

// room is the chunk that the next byte of the stream belongs to, nil when too
// much waits already.
func (l *logger) room(key captureKey) *chunk {
	if l.held >= logBuffer {
		return nil
	}
	if n := len(l.chunks); n > 0 {
		last := &l.chunks[n-1]
		if last.step == key.step && last.stream == key.stream && len(last.data) < logChunk &&
			last.offset+int64(len(last.data)) == l.offsets[key] {
			return last
		}
	}
	l.chunks = append(l.chunks, chunk{step: key.step, stream: key.stream, offset: l.offsets[key]})
	return &l.chunks[len(l.chunks)-1]
}

func (l *logger) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends chunks until close was called and all are sent, or ctx ends.
func (l *logger) run(ctx context.Context) {
	tick := time.NewTicker(logDelay)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.wake:
		}
		chunks, closed := l.take()
		for _, c := range chunks {
			if !l.send(c) {
				l.drop(int64(len(c.data)))
			}
		}
		if closed {
			return
		}
	}
}

func (l *logger) take() (chunks []chunk, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	chunks, l.chunks, l.held = l.chunks, nil, 0
	return chunks, l.closed
}

func (l *logger) drop(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped += n
}

// close lets run send what is left and return.
func (l *logger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.poke()
}
