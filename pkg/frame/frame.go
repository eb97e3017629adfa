package frame

// Frame is one message. The types that implement it stand in work.go (from the worker) and reply.go (from the agent).
type Frame interface {
	Kind() Kind
	// walk names the fields in wire order.
	walk(*wire)
	// check says what is wrong with the values; the sizes of single fields are checked by walk.
	check(*wire)
}

// Stream is an output stream of a step: its number as a file descriptor.
type Stream uint8

// The output streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

func (s *Stream) walk(w *wire) {
	w.u8((*uint8)(s))
	if *s != Stdout && *s != Stderr {
		w.fail("stream %d", *s)
	}
}
