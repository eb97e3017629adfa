package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// Settings of a session. Zero values stand for the defaults named here.
type Settings struct {
	Buffer  int           // bytes of each output stream that the agent holds when this side is slow; 4 MiB
	Beat    time.Duration // between signs of life; 1 s
	Silence time.Duration // after which the agent ends the sandbox; 5 s
	Grace   time.Duration // for the agent to end a step that was told to stop; 2 s

	FileMax   int64 // bytes of one file put; 256 MiB
	FilesMax  int64 // bytes of all files of one PutFiles; 256 MiB
	FileCount int   // files of one PutFiles; 10,000
}

func (s Settings) withDefaults() Settings {
	set(&s.Buffer, 4<<20)
	set(&s.Beat, time.Second)
	set(&s.Silence, 5*time.Second)
	set(&s.Grace, 2*time.Second)
	set(&s.FileMax, 256<<20)
	set(&s.FilesMax, 256<<20)
	set(&s.FileCount, 10_000)
	return s
}

func set[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Session is an open channel to one agent. Its methods are for one goroutine, except Close, Done and Err.
type Session struct {
	settings Settings
	r        io.ReadCloser
	w        io.WriteCloser
	out      *frame.Writer
	frames   chan frame.Frame // from the reading goroutine; unbuffered, so that a flood is the agent's own problem
	reading  sync.WaitGroup
	hello    frame.Hello
	step     uint32 // number of the newest step

	mu   sync.Mutex
	err  error         // why the session is over
	down chan struct{} // closed with err
}

// Open greets the agent: r carries its output, w its input. Both belong to the session from now on, also when Open
// fails; closing them must make pending calls return, as it does with pipes and sockets. When ctx ends first, the
// error is its cause.
func Open(ctx context.Context, r io.ReadCloser, w io.WriteCloser, settings Settings) (*Session, error) {
	s := &Session{
		settings: settings.withDefaults(),
		r:        r,
		w:        w,
		out:      frame.NewWriter(w),
		frames:   make(chan frame.Frame),
		down:     make(chan struct{}),
	}
	s.reading.Go(s.read)
	defer s.endsWith(ctx)()
	if err := s.greet(); err != nil {
		s.abort(err)
		s.reading.Wait()
		return nil, fmt.Errorf("open session: %w", s.Err())
	}
	return s, nil
}

func (s *Session) greet() error {
	f, err := s.next()
	if err != nil {
		return err
	}
	hello, ok := f.(*frame.Hello)
	if !ok {
		return s.unexpected(f)
	}
	if hello.Version != frame.Version {
		return violation("agent speaks version %d, worker %d", hello.Version, frame.Version)
	}
	s.hello = *hello
	return s.out.Write(&frame.Settings{
		Version:   frame.Version,
		Buffer:    uint32(s.settings.Buffer),
		SilenceMS: uint32(s.settings.Silence.Milliseconds()),
		FileMax:   s.settings.FileMax,
		FilesMax:  s.settings.FilesMax,
		FileCount: uint32(s.settings.FileCount),
	})
}

// Hello is what the agent said of the sandbox. It is a claim.
func (s *Session) Hello() frame.Hello { return s.hello }

// Done is closed when the session is over, for whatever reason.
func (s *Session) Done() <-chan struct{} { return s.down }

// Err says why the session is over; nil if it is not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close asks the agent to end the sandbox and closes the channel. It may be called at any time and twice. The error is
// always nil.
func (s *Session) Close() error {
	if s.Err() == nil {
		var asking sync.WaitGroup
		asked := make(chan struct{})
		asking.Go(func() {
			defer close(asked)
			s.out.Write(&frame.Shutdown{}) //nolint:errcheck // the closed channel says the same
		})
		select {
		case <-asked:
		case <-time.After(100 * time.Millisecond):
		}
		s.abort(ErrClosed)
		asking.Wait()
	}
	s.reading.Wait()
	return nil
}

// read hands frames to whoever waits for one, until the channel ends.
func (s *Session) read() {
	in := frame.NewReader(s.r, frame.Agent)
	for {
		f, err := in.Next()
		if err != nil {
			s.abort(readError(err))
			return
		}
		if e, ok := f.(*frame.Error); ok && (e.Code == frame.CodeProtocol || e.Code == frame.CodeSetup) {
			s.abort(agentError(e)) // its last words
			return
		}
		select {
		case s.frames <- f:
		case <-s.down:
			return
		}
	}
}

func readError(err error) error {
	if errors.Is(err, frame.ErrMalformed) {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// abort ends the session. The first reason stays; whoever reads or writes is woken.
func (s *Session) abort(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	close(s.down)
	s.r.Close() //nolint:errcheck // nothing more is wanted of it
	s.w.Close() //nolint:errcheck // as above
}

// endsWith ties the session to ctx until the function that it returns is called.
func (s *Session) endsWith(ctx context.Context) (untie func() bool) {
	return context.AfterFunc(ctx, func() { s.abort(context.Cause(ctx)) })
}

// next waits for a frame; what the agent reports is an error.
func (s *Session) next() (frame.Frame, error) {
	select {
	case f := <-s.frames:
		return sift(f)
	case <-s.down:
		return nil, s.Err()
	}
}

func sift(f frame.Frame) (frame.Frame, error) {
	if e, ok := f.(*frame.Error); ok {
		return nil, agentError(e)
	}
	return f, nil
}

func (s *Session) unexpected(f frame.Frame) error {
	err := violation("frame kind %d out of turn", f.Kind())
	s.abort(err)
	return err
}

// reported tells whether err is the agent's own report with one of these codes, after which the session goes on.
func reported(err error, codes ...frame.ErrorCode) bool {
	var e *AgentError
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code == c {
			return true
		}
	}
	return false
}

// beat shows signs of life until stop is closed.
func (s *Session) beat(stop <-chan struct{}) {
	tick := time.NewTicker(s.settings.Beat)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			if s.out.Write(&frame.Beat{}) != nil {
				return
			}
		}
	}
}

// join waits for goroutines that write; an agent that does not read any more is given up.
func (s *Session) join(writing *sync.WaitGroup) {
	give := time.AfterFunc(s.settings.Grace, func() { s.abort(ErrStuck) })
	defer give.Stop()
	writing.Wait()
}
