package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
	"github.com/sandlot-dev/sandlot/worker/guest"
)

// peer is an agent made of test code. Its methods give up silently when the channel closes.
type peer struct {
	in  *frame.Reader
	r   *io.PipeReader
	w   *io.PipeWriter
	out *frame.Writer
}

// connect opens a session with an agent that says hello and then does as the script says, its channel closed after it.
// The function that it returns waits for the script.
func connect(t testing.TB, settings guest.Settings, script func(*peer)) (s *guest.Session, wait func()) {
	t.Helper()
	s, wait, err := try(t.Context(), settings, func(p *peer) {
		p.send(greeting())
		p.expect(frame.KindSettings)
		script(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, wait
}

func try(ctx context.Context, settings guest.Settings, script func(*peer)) (*guest.Session, func(), error) {
	rIn, wIn := io.Pipe()
	rOut, wOut := io.Pipe()
	p := &peer{in: frame.NewReader(rIn, frame.Worker), r: rIn, w: wOut, out: frame.NewWriter(wOut)}
	var running sync.WaitGroup
	running.Go(func() {
		defer func() { _ = wOut.Close() }()
		script(p)
		go drain(rIn) // whatever the worker still says
	})
	s, err := guest.Open(ctx, rOut, wIn, settings)
	return s, running.Wait, err
}

func drain(r io.Reader) { _, _ = io.Copy(io.Discard, r) }

func greeting() *frame.Hello {
	return &frame.Hello{Version: frame.Version, Layout: frame.OneDisk}
}

func (p *peer) send(frames ...frame.Frame) {
	for _, f := range frames {
		_ = p.out.Write(f)
	}
}

// expect reads up to the next frame of the kind; nil when there is none.
func (p *peer) expect(kind frame.Kind) frame.Frame {
	for {
		f, err := p.in.Next()
		if err != nil || f.Kind() == kind {
			return f
		}
	}
}

// Frames of a step that a well-behaved agent would send.
func started() frame.Frame { return &frame.StepStarted{Step: 1} }

func output(stream frame.Stream, seq uint64, data string) frame.Frame {
	return &frame.Output{Step: 1, Stream: stream, Seq: seq, Data: []byte(data)}
}

func eof(stream frame.Stream, chunks uint64, bytes int64) frame.Frame {
	return &frame.OutputEOF{Step: 1, Stream: stream, Chunks: chunks, Bytes: bytes}
}

func exit(code uint8) frame.Frame { return &frame.StepExit{Step: 1, Code: code} }

func discard(frame.Stream, []byte) error { return nil }

var simple = guest.Step{Argv: []string{"x"}, Dir: "/work", UID: 1000, GID: 1000}

func TestHostileStepsBreakTheSession(t *testing.T) {
	o, e := output(1, 0, "x"), eof(2, 0, 0)
	cases := map[string][]frame.Frame{
		"output before the start":         {o},
		"end of output before the start":  {e},
		"exit before the start":           {exit(0)},
		"started twice":                   {started(), started()},
		"another step started":            {&frame.StepStarted{Step: 2}},
		"output of another step":          {started(), &frame.Output{Step: 2, Stream: 1, Data: []byte("x")}},
		"end of another step's output":    {started(), &frame.OutputEOF{Step: 2, Stream: 1}},
		"exit of another step":            {started(), eof(1, 0, 0), e, &frame.StepExit{Step: 2}},
		"first chunk is number one":       {started(), output(1, 1, "x")},
		"chunk twice":                     {started(), o, o},
		"gap between chunks":              {started(), o, output(1, 2, "x")},
		"streams counted together":        {started(), o, output(2, 1, "x")},
		"output after its end":            {started(), eof(1, 0, 0), o},
		"second end of output":            {started(), e, e},
		"end counts too few chunks":       {started(), o, eof(1, 0, 1)},
		"end counts too many bytes":       {started(), o, eof(1, 1, 2)},
		"exit before any end of output":   {started(), exit(0)},
		"exit before the end of stdout":   {started(), e, exit(0)},
		"exit before the end of stderr":   {started(), eof(1, 0, 0), exit(0)},
		"input taken that was never sent": {started(), &frame.StdinTaken{Step: 1, Bytes: 1}},
		"input of another step taken":     {started(), &frame.StdinTaken{Step: 9, Bytes: 1}},
		"files done":                      {started(), &frame.FilesDone{}},
		"hello again":                     {greeting()},
		"an artifact":                     {started(), &frame.ArtifactOpen{Path: "x"}},
		"artifacts done":                  {started(), &frame.CollectDone{}},
		"launch error after the start":    {started(), &frame.Error{Code: frame.CodeLaunch}},
		"file error":                      {&frame.Error{Code: frame.CodeFile}},
		"collect error":                   {started(), &frame.Error{Code: frame.CodeCollect}},
	}
	for name, frames := range cases {
		t.Run(name, func(t *testing.T) {
			s, wait := connect(t, guest.Settings{}, func(p *peer) {
				p.expect(frame.KindStepStart)
				p.send(frames...)
				p.expect(0) // the worker closes the channel
			})
			got, err := s.Run(t.Context(), simple, discard)
			if !errors.Is(err, guest.ErrProtocol) || !got.Ended.IsZero() && got.Code != 0 {
				t.Errorf("%+v, %v", got, err)
			}
			if _, err := s.Run(t.Context(), simple, discard); !errors.Is(err, guest.ErrProtocol) {
				t.Errorf("next step: %v", err)
			}
			_ = s.Close()
			wait()
		})
	}
}

func TestHostileBytesBreakTheSession(t *testing.T) {
	cases := map[string]string{
		"a frame of the worker's": "\x00\x00\x00\x00\x0c",
		"an unknown kind":         "\x00\x00\x00\x00\x7f",
		"a length out of bounds":  "\xff\xff\xff\xff\x45",
		"text instead of frames":  "Traceback (most recent call last):\n",
	}
	for name, data := range cases {
		t.Run(name, func(t *testing.T) {
			s, wait := connect(t, guest.Settings{}, func(p *peer) {
				p.expect(frame.KindStepStart)
				_, _ = io.WriteString(p.w, data)
				p.expect(0)
			})
			if _, err := s.Run(t.Context(), simple, discard); !errors.Is(err, guest.ErrProtocol) {
				t.Errorf("%v", err)
			}
			_ = s.Close()
			wait()
		})
	}
}

func TestHostileHellosOpenNoSession(t *testing.T) {
	cases := map[string]struct {
		frames []frame.Frame
		want   error
	}{
		"nothing":         {nil, guest.ErrGone},
		"another version": {[]frame.Frame{&frame.Hello{Version: 99, Layout: frame.OneDisk}}, guest.ErrProtocol},
		"another frame":   {[]frame.Frame{started()}, guest.ErrProtocol},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, wait, err := try(t.Context(), guest.Settings{}, func(p *peer) {
				p.send(c.frames...)
				if c.frames != nil {
					p.expect(0)
				}
			})
			if !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
			wait()
		})
	}
	t.Run("setup error", func(t *testing.T) {
		_, wait, err := try(t.Context(), guest.Settings{}, func(p *peer) {
			p.send(&frame.Error{Code: frame.CodeSetup, Text: "no disk"})
		})
		var agent *guest.AgentError
		if !errors.As(err, &agent) || agent.Text != "no disk" {
			t.Errorf("%v", err)
		}
		wait()
	})
	t.Run("no end of waiting", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errTest)
		_, wait, err := try(ctx, guest.Settings{}, func(p *peer) { p.expect(0) })
		if !errors.Is(err, errTest) {
			t.Errorf("%v", err)
		}
		wait()
	})
}

func TestHostileAnswersToFilesBreakTheSession(t *testing.T) {
	cases := map[string]frame.Frame{
		"fewer files":     &frame.FilesDone{Count: 0, Bytes: 1},
		"more bytes":      &frame.FilesDone{Count: 1, Bytes: 2},
		"a step's output": output(1, 0, "x"),
		"a launch error":  &frame.Error{Code: frame.CodeLaunch},
	}
	for name, answer := range cases {
		t.Run(name, func(t *testing.T) {
			s, wait := connect(t, guest.Settings{}, func(p *peer) {
				p.expect(frame.KindFilesEnd)
				p.send(answer)
				p.expect(0)
			})
			err := s.PutFiles(t.Context(), []guest.File{file("a", "x")})
			if name == "a launch error" {
				if s.Err() == nil {
					t.Error("session goes on")
				}
			} else if !errors.Is(err, guest.ErrProtocol) {
				t.Errorf("%v", err)
			}
			_ = s.Close()
			wait()
		})
	}
}

func TestHostileArtifactsBreakTheSession(t *testing.T) {
	open := func(path string, size int64) frame.Frame { return &frame.ArtifactOpen{Path: path, Size: size} }
	data := &frame.ArtifactData{Data: []byte("x")}
	end := &frame.ArtifactEnd{}
	cases := map[string][]frame.Frame{
		"one that was not asked for":  {open("b/x", 0)},
		"the same twice":              {open("a/x", 0), end, open("a/x", 0)},
		"more than asked for":         {open("a/1", 0), end, open("a/2", 0), end, open("a/3", 0)},
		"larger than asked for":       {open("a/x", 101)},
		"larger together":             {open("a/x", 1), data, end, open("a/y", 100)},
		"data without a file":         {data},
		"more data than announced":    {open("a/x", 1), data, data},
		"less data than announced":    {open("a/x", 2), data, end},
		"end without a file":          {end},
		"one inside another":          {open("a/x", 1), open("a/y", 1)},
		"done inside one":             {open("a/x", 1), &frame.CollectDone{Files: 1}},
		"done with another count":     {open("a/x", 1), data, end, &frame.CollectDone{Files: 2, Bytes: 1}},
		"done with another size":      {open("a/x", 1), data, end, &frame.CollectDone{Files: 1, Bytes: 2}},
		"a step's output in between":  {output(1, 0, "x")},
		"files done":                  {&frame.FilesDone{}},
		"agent's own error":           {&frame.Error{Code: frame.CodeCollect}},
		"file error":                  {&frame.Error{Code: frame.CodeFile}},
		"nothing, then end of stream": nil,
	}
	for name, frames := range cases {
		t.Run(name, func(t *testing.T) {
			s, wait := connect(t, guest.Settings{}, func(p *peer) {
				p.expect(frame.KindCollect)
				p.send(frames...)
				if frames != nil {
					p.expect(0)
				}
			})
			_, err := s.Collect(t.Context(), []string{"a/*"}, guest.Caps{Files: 2, Bytes: 100},
				func(string, fs.FileMode, int64) (io.WriteCloser, error) { return &kept{into: map[string]string{}}, nil })
			if err == nil || s.Err() == nil {
				t.Errorf("accepted: %v", err)
			}
			_ = s.Close()
			wait()
		})
	}
}

func TestAgentsLastWordsAreHeard(t *testing.T) {
	s, wait := connect(t, guest.Settings{}, func(p *peer) {
		p.expect(frame.KindStepStart)
		p.send(&frame.Error{Code: frame.CodeProtocol, Text: "you did wrong"})
		p.r.CloseWithError(io.ErrClosedPipe)
	})
	step := simple
	step.Stdin = bytes.NewReader(make([]byte, 1<<20))
	_, err := s.Run(t.Context(), step, discard)
	var agent *guest.AgentError
	if !errors.As(err, &agent) || agent.Text != "you did wrong" {
		t.Errorf("%v", err)
	}
	_ = s.Close()
	wait()
}

// Where time passes, the clock is synctest's. Its bubble also proves that every goroutine has ended.

func TestWorkerBeatsOnlyInAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beats := 0
		s, wait := connect(t, guest.Settings{}, func(p *peer) {
			p.expect(frame.KindStepStart)
			p.send(started())
			for range 3 {
				p.expect(frame.KindBeat)
				beats++
			}
			p.send(eof(1, 0, 0), eof(2, 0, 0), exit(0))
			if f := p.expect(frame.KindBeat); f != nil {
				beats = -1
			}
		})
		start := time.Now()
		if _, err := s.Run(t.Context(), simple, discard); err != nil || beats != 3 || time.Since(start) != 3*time.Second {
			t.Errorf("%v; %d beats in %v", err, beats, time.Since(start))
		}
		time.Sleep(time.Hour)
		if beats != 3 {
			t.Error("beats between steps")
		}
		_ = s.Close()
		wait()
	})
}

func TestStuckAgentIsGivenUp(t *testing.T) {
	stop := map[string]func(*guest.Step, context.CancelCauseFunc){
		"at the wall limit":  func(s *guest.Step, _ context.CancelCauseFunc) { s.Wall = time.Minute },
		"by the context":     func(s *guest.Step, c context.CancelCauseFunc) { time.AfterFunc(time.Minute, func() { c(errTest) }) },
		"while it reads not": func(s *guest.Step, _ context.CancelCauseFunc) { s.Wall = time.Minute },
	}
	for name, how := range stop {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, wait := connect(t, guest.Settings{}, func(p *peer) {
					p.expect(frame.KindStepStart)
					p.send(started(), output(1, 0, "before"))
					if strings.Contains(name, "not") {
						time.Sleep(time.Hour)
					}
					p.expect(0)
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				step := simple
				how(&step, cancel)
				start := time.Now()
				got, err := s.Run(ctx, step, discard)
				if d := time.Since(start); d != time.Minute+2*time.Second || got.Stdout != 6 || !got.Ended.IsZero() {
					t.Errorf("%+v, %v after %v", got, err, d)
				}
				if !errors.Is(err, guest.ErrStuck) && !errors.Is(err, errTest) {
					t.Errorf("%v", err)
				}
				if !errors.Is(s.Err(), guest.ErrStuck) {
					t.Errorf("session ended with %v", s.Err())
				}
				_ = s.Close()
				wait()
			})
		})
	}
}

func TestFloodAfterTheOutputLimitIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wait := connect(t, guest.Settings{}, func(p *peer) {
			p.expect(frame.KindStepStart)
			p.send(started())
			for seq := uint64(0); ; seq++ {
				time.Sleep(time.Millisecond)
				if p.out.Write(output(1, seq, strings.Repeat("x", 1000))) != nil {
					return
				}
			}
		})
		step := simple
		step.Output = 2500
		var taken int
		got, err := s.Run(t.Context(), step, func(_ frame.Stream, data []byte) error {
			taken += len(data)
			return nil
		})
		if !errors.Is(err, guest.ErrStuck) || !errors.Is(got.Stopped, guest.ErrOutput) || taken != 2500 {
			t.Errorf("%+v, %v, %d bytes taken", got, err, taken)
		}
		_ = s.Close()
		wait()
	})
}

func TestContextCutsOffEveryOperation(t *testing.T) {
	operations := map[string]func(context.Context, *guest.Session) error{
		"put files": func(ctx context.Context, s *guest.Session) error {
			return s.PutFiles(ctx, []guest.File{file("a", strings.Repeat("x", 1<<20))})
		},
		"collect": func(ctx context.Context, s *guest.Session) error {
			_, err := s.Collect(ctx, []string{"*"}, guest.Caps{Files: 1, Bytes: 1}, nil)
			return err
		},
	}
	for name, do := range operations {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, wait := connect(t, guest.Settings{}, func(*peer) { time.Sleep(time.Hour) })
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errTest)
				defer cancel()
				start := time.Now()
				if err := do(ctx, s); !errors.Is(err, errTest) || time.Since(start) != time.Minute {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				_ = s.Close()
				wait()
			})
		})
	}
}

func TestCloseDoesNotWaitForADeafAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wait := connect(t, guest.Settings{}, func(*peer) { time.Sleep(time.Hour) })
		start := time.Now()
		_ = s.Close()
		_ = s.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
		if !errors.Is(s.Err(), guest.ErrClosed) {
			t.Error(s.Err())
		}
		wait()
	})
}

func TestBadStepSendsNothing(t *testing.T) {
	s, wait := connect(t, guest.Settings{}, func(p *peer) {
		p.expect(frame.KindStepStart)
		p.send(started(), eof(1, 0, 0), eof(2, 0, 0), exit(7))
		p.expect(0)
	})
	bad := simple
	bad.Argv = []string{"a\x00"}
	if _, err := s.Run(t.Context(), bad, discard); !errors.Is(err, frame.ErrMalformed) {
		t.Errorf("%v", err)
	}
	got, err := s.Run(t.Context(), simple, discard)
	if err != nil || got.Code != 7 || got.Signal != syscall.Signal(0) {
		t.Errorf("%+v, %v", got, err)
	}
	_ = s.Close()
	wait()
}

// FuzzSession: whatever an agent sends, every operation ends, and a step that ends well had an orderly end.
func FuzzSession(f *testing.F) {
	add := func(frames ...frame.Frame) {
		var b []byte
		for _, fr := range frames {
			b, _ = frame.Append(b, fr)
		}
		f.Add(b)
	}
	add(&frame.FilesDone{Count: 1, Bytes: 1}, started(), output(1, 0, "x"), eof(1, 1, 1), eof(2, 0, 0), exit(3),
		&frame.ArtifactOpen{Path: "a", Size: 1}, &frame.ArtifactData{Data: []byte("x")}, &frame.ArtifactEnd{},
		&frame.CollectDone{Files: 1, Bytes: 1})
	add(&frame.Error{Code: frame.CodeFile}, &frame.Error{Code: frame.CodeLaunch}, &frame.Error{Code: frame.CodeCollect})
	add(&frame.FilesDone{Count: 1, Bytes: 1}, started(), &frame.StdinTaken{Step: 1, Bytes: 1}, output(2, 0, "x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, wait := connect(t, guest.Settings{Grace: 50 * time.Millisecond}, func(p *peer) {
			go drain(p.r)
			_, _ = p.w.Write(data)
		})
		defer wait()
		defer func() { _ = s.Close() }()
		_ = s.PutFiles(t.Context(), []guest.File{file("a", "x")})
		step := simple
		step.Stdin = strings.NewReader("input")
		var taken int64
		exit, err := s.Run(t.Context(), step, func(_ frame.Stream, data []byte) error {
			taken += int64(len(data))
			return nil
		})
		if taken != exit.Stdout+exit.Stderr {
			t.Errorf("%d bytes given, %+v", taken, exit)
		}
		if err == nil && (exit.Started.IsZero() || exit.Ended.Before(exit.Started)) {
			t.Errorf("%+v", exit)
		}
		_, _ = s.Collect(t.Context(), []string{"a"}, guest.Caps{Files: 1, Bytes: 10},
			func(string, fs.FileMode, int64) (io.WriteCloser, error) { return &kept{into: map[string]string{}}, nil })
	})
}
