package guest

import (
	"io"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// write sends the start of a step and then its input, as the agent makes room for it.
func (r *running) write(start *frame.StepStart) {
	if err := r.s.out.Write(start); err != nil {
		r.s.writeFailed(err)
		return
	}
	close(r.sent)
	if r.step.Stdin == nil {
		return
	}
	if err := r.writeStdin(); err != nil {
		r.s.writeFailed(err)
	}
}

func (r *running) writeStdin() error {
	buf := make([]byte, frame.MaxData)
	for {
		room := r.room()
		if room == 0 {
			return nil
		}
		n, err := r.step.Stdin.Read(buf[:min(room, frame.MaxData)])
		if r.isOver() {
			return nil
		}
		if n > 0 {
			r.grow(-n)
			if err := r.s.out.Write(&frame.StdinData{Step: r.number, Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return r.s.out.Write(&frame.StdinEOF{Step: r.number})
		}
		if err != nil {
			return &bodyError{err}
		}
	}
}

// room waits until something may be sent; it is 0 when the step is over.
func (r *running) room() int {
	for {
		r.mu.Lock()
		room := r.window
		r.mu.Unlock()
		if room > 0 {
			return room
		}
		select {
		case <-r.credit:
		case <-r.over:
			return 0
		case <-r.s.down:
			return 0
		}
	}
}

func (r *running) isOver() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

func (r *running) grow(n int) {
	r.mu.Lock()
	r.window += n
	r.mu.Unlock()
}

// taken is the agent's word that so much of the input has gone to the program.
func (r *running) taken(n int) error {
	r.mu.Lock()
	r.window += n
	over := r.window > frame.StdinWindow
	r.mu.Unlock()
	if over {
		return violation("agent took more input than it was sent")
	}
	select {
	case r.credit <- 1:
	default:
	}
	return nil
}
