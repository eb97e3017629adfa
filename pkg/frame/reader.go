package frame

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Reader reads frames that one side sends.
type Reader struct {
	r    *bufio.Reader
	from Side
}

// NewReader reads from r the frames that from sends; any other kind is malformed.
func NewReader(r io.Reader, from Side) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 16<<10), from: from}
}

// Next reads one frame. At a clean end it returns io.EOF, in the middle of a frame io.ErrUnexpectedEOF, and for a
// bad frame an error that wraps ErrMalformed, after which the reader is of no more use. The frame's data is its own.
func (r *Reader) Next() (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r.r, header[:]); err != nil {
		return nil, err
	}
	n, kind := binary.BigEndian.Uint32(header[:4]), Kind(header[4])
	f := kind.empty()
	if f == nil || kind.sender() != r.from {
		return nil, fmt.Errorf("%w: kind %d is not expected here", ErrMalformed, kind)
	}
	if n > uint32(kind.maxPayload()) {
		return nil, fmt.Errorf("%w: kind %d with %d bytes", ErrMalformed, kind, n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r.r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return f, decode(f, payload)
}

func decode(f Frame, payload []byte) error {
	w := &wire{buf: payload, reading: true}
	f.walk(w)
	if w.err == nil && len(w.buf) != 0 {
		w.fail("%d bytes too many", len(w.buf))
	}
	if w.err == nil {
		f.check(w)
	}
	if w.err != nil {
		return fmt.Errorf("kind %d: %w", f.Kind(), w.err)
	}
	return nil
}
