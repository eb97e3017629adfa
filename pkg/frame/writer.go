package frame

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Writer writes frames. It may be used by several goroutines: a frame is written whole, by one Write call.
type Writer struct {
	w io.Writer

	// A channel and not a mutex: a write may take as long as the other end likes, and whoever waits for its turn then
	// is to be seen waiting by testing/synctest.
	turn chan struct{}
	buf  []byte // kept between frames, never larger than the largest data frame
	err  error  // the first failed write; the channel is cut in the middle of a frame and of no more use
}

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, turn: make(chan struct{}, 1)}
}

// Write encodes and writes one frame. An error that wraps ErrMalformed means that nothing was written.
func (w *Writer) Write(f Frame) error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if w.err != nil {
		return w.err
	}
	buf, err := Append(w.buf[:0], f)
	if err != nil {
		return err
	}
	if cap(buf) <= maxSmall {
		w.buf = buf
	}
	if _, err := w.w.Write(buf); err != nil {
		w.err = fmt.Errorf("write frame: %w", err)
		return w.err
	}
	return nil
}

// Append encodes a frame to the end of buf.
func Append(buf []byte, f Frame) ([]byte, error) {
	kind := f.Kind()
	start := len(buf)
	w := &wire{buf: append(buf, 0, 0, 0, 0, byte(kind))}
	f.walk(w)
	f.check(w)
	n := len(w.buf) - start - headerSize
	if n > kind.maxPayload() {
		w.fail("%d bytes", n)
	}
	if w.err != nil {
		return nil, fmt.Errorf("kind %d: %w", kind, w.err)
	}
	binary.BigEndian.PutUint32(w.buf[start:], uint32(n))
	return w.buf, nil
}
