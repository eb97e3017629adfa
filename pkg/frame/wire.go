package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrMalformed is wrapped by every complaint about the form of a frame, in both directions.
var ErrMalformed = errors.New("malformed frame")

// wire walks the fields of a frame, writing them or reading them. One walk serves both, so the two cannot differ.
// The first error sticks and makes the rest of the walk do nothing.
type wire struct {
	buf     []byte // encoding: what is written so far; decoding: what is still to be read
	reading bool
	err     error
}

func (w *wire) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// take cuts n bytes off the payload being read.
func (w *wire) take(n int) []byte {
	if w.err != nil {
		return nil
	}
	if n > len(w.buf) {
		w.fail("%d bytes wanted, %d left", n, len(w.buf))
		return nil
	}
	b := w.buf[:n:n]
	w.buf = w.buf[n:]
	return b
}

func (w *wire) u8(v *uint8) {
	if !w.reading {
		w.buf = append(w.buf, *v)
	} else if b := w.take(1); b != nil {
		*v = b[0]
	}
}

func (w *wire) u32(v *uint32) {
	if !w.reading {
		w.buf = binary.BigEndian.AppendUint32(w.buf, *v)
	} else if b := w.take(4); b != nil {
		*v = binary.BigEndian.Uint32(b)
	}
}

func (w *wire) u64(v *uint64) {
	if !w.reading {
		w.buf = binary.BigEndian.AppendUint64(w.buf, *v)
	} else if b := w.take(8); b != nil {
		*v = binary.BigEndian.Uint64(b)
	}
}

// size is a u64 that fits an int64, so that sums and comparisons on the other side cannot go wrong by sign.
func (w *wire) size(v *int64) {
	if !w.reading && *v < 0 {
		w.fail("negative size %d", *v)
		return
	}
	u := uint64(*v)
	w.u64(&u)
	if u > 1<<62 {
		w.fail("size %d is absurd", u)
		return
	}
	*v = int64(u)
}

func (w *wire) flag(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	w.u8(&b)
	if b > 1 {
		w.fail("flag is %d", b)
	}
	*v = b == 1
}

// data is the rest of the payload, between 1 and MaxData bytes. It aliases the buffer that the frame was read into.
func (w *wire) data(v *[]byte) {
	if w.err != nil {
		return
	}
	if !w.reading {
		w.buf = append(w.buf, *v...)
	} else {
		*v = w.take(len(w.buf))
	}
	if len(*v) == 0 || len(*v) > MaxData {
		w.fail("data of %d bytes", len(*v))
	}
}

// text is a string of at most limit bytes with no NUL in it, as paths, arguments and environment entries are.
func (w *wire) text(v *string, limit int) {
	n := uint32(len(*v))
	w.u32(&n)
	if n > uint32(limit) {
		w.fail("text of %d bytes, at most %d allowed", n, limit)
		return
	}
	if !w.reading {
		w.buf = append(w.buf, *v...)
	} else {
		*v = string(w.take(int(n)))
	}
	if strings.IndexByte(*v, 0) >= 0 {
		w.fail("text holds a NUL")
	}
}

// list walks n items. While reading it refuses a count that the bytes left cannot hold: the smallest item has min bytes.
func list[T any](w *wire, v *[]T, limit, min int, item func(*T)) {
	n := uint32(len(*v))
	w.u32(&n)
	if n > uint32(limit) || w.reading && int(n)*min > len(w.buf) {
		w.fail("list of %d items", n)
	}
	if w.err != nil {
		return
	}
	if w.reading && n > 0 {
		*v = make([]T, n)
	}
	for i := range *v {
		item(&(*v)[i])
	}
}

func (w *wire) texts(v *[]string, count, limit int) {
	list(w, v, count, 4, func(s *string) { w.text(s, limit) })
}
