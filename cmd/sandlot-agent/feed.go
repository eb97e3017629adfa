package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// feed carries a step's input from the channel to the program's pipe. What waits here is within frame.StdinWindow.
type feed struct {
	step   uint32
	wanted bool
	file   *os.File // our end of the pipe, nil without input
	run    sync.WaitGroup

	mu    sync.Mutex
	moved sync.Cond
	data  []byte
	eof   bool // nothing comes after data
	over  bool // the step has ended
}

func newFeed(step uint32, wanted bool) *feed {
	f := &feed{step: step, wanted: wanted, eof: !wanted}
	f.moved.L = &f.mu
	return f
}

// open gives the program's end.
func (f *feed) open() (*os.File, error) {
	if !f.wanted {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		return null, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	f.file = w
	return r, nil
}

func (f *feed) push(data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.eof {
		return errors.New("input after its end")
	}
	if len(f.data)+len(data) > frame.StdinWindow {
		return errors.New("more input than the window allows")
	}
	f.data = append(f.data, data...)
	f.moved.Broadcast()
	return nil
}

func (f *feed) end() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.eof {
		return errors.New("second end of input")
	}
	f.eof = true
	f.moved.Broadcast()
	return nil
}

func (f *feed) start(a *agent) {
	if f.file == nil {
		return
	}
	f.run.Go(func() {
		defer f.file.Close() //nolint:errcheck // a pipe
		for {
			data := f.next()
			if data == nil {
				return
			}
			// A program that does not read any more gets the rest thrown away.
			f.file.Write(data) //nolint:errcheck // as said
			f.taken(a, len(data))
		}
	})
}

// next waits for input; nil is its end.
func (f *feed) next() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.data) == 0 && !f.eof && !f.over {
		f.moved.Wait()
	}
	if f.over {
		return nil
	}
	return f.data[:min(len(f.data), frame.MaxData):min(len(f.data), frame.MaxData)]
}

func (f *feed) taken(a *agent, n int) {
	f.mu.Lock()
	f.data = f.data[n:]
	if len(f.data) == 0 {
		f.data = nil
	}
	over := f.over
	f.mu.Unlock()
	if !over {
		a.send(&frame.StdinTaken{Step: f.step, Bytes: uint32(n)})
	}
}

// stop returns when nothing more of the input is sent or reported.
func (f *feed) stop() {
	f.mu.Lock()
	f.over = true
	f.moved.Broadcast()
	f.mu.Unlock()
	if f.file != nil {
		f.file.SetWriteDeadline(past()) //nolint:errcheck // a pipe has deadlines
	}
	f.run.Wait()
}

// past is a deadline that has passed.
func past() time.Time { return time.Unix(1, 0) }
