package frame_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

var update = flag.Bool("update", false, "write testdata/golden.txt")

// samples holds every frame type, in the order of the kinds.
var samples = []frame.Frame{
	&frame.Settings{Version: 1, Buffer: 4 << 20, SilenceMS: 5000, FileMax: 1 << 20, FilesMax: 1 << 21, FileCount: 10},
	&frame.Beat{},
	&frame.FileOpen{Path: "a/b.txt", Mode: 0o644, Size: 5},
	&frame.FileData{Data: []byte("hello")},
	&frame.FileEnd{},
	&frame.FilesEnd{},
	&frame.StepStart{
		Step: 1, Argv: []string{"sh", "-c", "exit 3"}, Env: []string{"PATH=/bin", ""}, Dir: "/work", UID: 1000, GID: 1000,
		Limits: []frame.Limit{{Resource: 6, Value: 64}, {Resource: 4}}, Stdin: true,
	},
	&frame.StdinData{Step: 1, Data: []byte{0, 255}},
	&frame.StdinEOF{Step: 1},
	&frame.Signal{Step: 1, Number: 9, Tree: true},
	&frame.Collect{Globs: []string{"out/**", "*.log"}, Files: 100, Bytes: 1 << 30},
	&frame.Shutdown{},
	&frame.Hello{
		Version: 1, Layout: frame.OneDisk, Disk: 8 << 20, RootReadonly: true, Kernel: "4.19.0-gvisor", Machine: "x86_64",
		CPUs: 2, Notes: []string{"note"},
	},
	&frame.FilesDone{Count: 1, Bytes: 5},
	&frame.StepStarted{Step: 1},
	&frame.StdinTaken{Step: 1, Bytes: 2},
	&frame.Output{Step: 1, Stream: frame.Stderr, Seq: 7, Data: []byte("oops\n")},
	&frame.OutputEOF{Step: 1, Stream: frame.Stdout, Chunks: 8, Bytes: 1 << 33},
	&frame.StepExit{
		Step: 1, Code: 3, UserUS: 1500, SystemUS: 20, MaxRSS: 1 << 20, WallUS: 2000, Left: 2, DiskFree: 4096, Disk: 8 << 20,
	},
	&frame.ArtifactOpen{Path: "out/x", Mode: 0o755, Size: 1},
	&frame.ArtifactData{Data: []byte("x")},
	&frame.ArtifactEnd{},
	&frame.CollectDone{Files: 1, Bytes: 1, Skipped: 2, Skips: []frame.Skip{{Path: "out/link", Reason: frame.SkipType}}},
	&frame.Error{Code: frame.CodeFile, Path: "a", Text: "no"},
}

func encode(t testing.TB, f frame.Frame) []byte {
	t.Helper()
	b, err := frame.Append(nil, f)
	if err != nil {
		t.Fatalf("%T: %v", f, err)
	}
	return b
}

func sender(f frame.Frame) frame.Side {
	if f.Kind() < 64 {
		return frame.Worker
	}
	return frame.Agent
}

func TestEveryFrameSurvivesTheWire(t *testing.T) {
	for _, f := range samples {
		var pipe bytes.Buffer
		if err := frame.NewWriter(&pipe).Write(f); err != nil {
			t.Fatalf("%T: %v", f, err)
		}
		r := frame.NewReader(&pipe, sender(f))
		got, err := r.Next()
		if err != nil {
			t.Fatalf("%T: %v", f, err)
		}
		if !reflect.DeepEqual(got, f) {
			t.Errorf("sent %+v, received %+v", f, got)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%T: after it %v, want EOF", f, err)
		}
	}
}

// The wire form may change only together with frame.Version.
func TestWireFormIsGolden(t *testing.T) {
	var b strings.Builder
	for _, f := range samples {
		fmt.Fprintf(&b, "%s %s\n", strings.TrimPrefix(fmt.Sprintf("%T", f), "*frame."), hex.EncodeToString(encode(t, f)))
	}
	const path = "testdata/golden.txt"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("wire form has changed:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestEveryCutFrameIsRefused(t *testing.T) {
	for _, f := range samples {
		b := encode(t, f)
		for n := 1; n < len(b); n++ {
			_, err := frame.NewReader(bytes.NewReader(b[:n]), sender(f)).Next()
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%T cut to %d bytes: %v", f, n, err)
			}
			// The same with a length that fits what is there.
			if n < 5 {
				continue
			}
			short := bytes.Clone(b[:n])
			binary.BigEndian.PutUint32(short, uint32(n-5))
			if got, err := frame.NewReader(bytes.NewReader(short), sender(f)).Next(); err == nil && !carriesData(got) {
				t.Fatalf("%T with %d bytes is accepted: %+v", f, n, got)
			}
		}
	}
}

// carriesData tells frames whose payload may end anywhere.
func carriesData(f frame.Frame) bool {
	switch f.(type) {
	case *frame.FileData, *frame.StdinData, *frame.Output, *frame.ArtifactData:
		return true
	}
	return false
}

func TestBadFramesAreRefusedOnBothSides(t *testing.T) {
	long := strings.Repeat("x", frame.MaxArg+1)
	start := func(change func(*frame.StepStart)) frame.Frame {
		f := &frame.StepStart{Step: 1, Argv: []string{"a"}, Dir: "/", UID: 1, GID: 1}
		change(f)
		return f
	}
	cases := map[string]frame.Frame{
		"step as root":               start(func(f *frame.StepStart) { f.UID = 0 }),
		"step in group root":         start(func(f *frame.StepStart) { f.GID = 0 }),
		"step without program":       start(func(f *frame.StepStart) { f.Argv = nil }),
		"step with empty program":    start(func(f *frame.StepStart) { f.Argv = []string{""} }),
		"step with relative dir":     start(func(f *frame.StepStart) { f.Dir = "work" }),
		"step with long argument":    start(func(f *frame.StepStart) { f.Argv = []string{"a", long} }),
		"step with NUL in argument":  start(func(f *frame.StepStart) { f.Argv = []string{"a\x00b"} }),
		"step with NUL in env":       start(func(f *frame.StepStart) { f.Env = []string{"A=\x00"} }),
		"step with many arguments":   start(func(f *frame.StepStart) { f.Argv = make([]string, frame.MaxArgs+1) }),
		"step with unknown limit":    start(func(f *frame.StepStart) { f.Limits = []frame.Limit{{Resource: 16}} }),
		"step with many limits":      start(func(f *frame.StepStart) { f.Limits = make([]frame.Limit, frame.MaxLimits+1) }),
		"step over one mebibyte":     start(func(f *frame.StepStart) { f.Env = many(long[:frame.MaxArg], 9) }),
		"file with absolute path":    &frame.FileOpen{Path: "/etc/passwd"},
		"file above the directory":   &frame.FileOpen{Path: "a/../../b"},
		"file with NUL":              &frame.FileOpen{Path: "a\x00b"},
		"file with setuid":           &frame.FileOpen{Path: "a", Mode: 0o4755},
		"file with negative size":    &frame.FileOpen{Path: "a", Size: -1},
		"file with absurd size":      &frame.FileOpen{Path: "a", Size: 1<<62 + 1},
		"artifact above":             &frame.ArtifactOpen{Path: "../a"},
		"artifact not UTF-8":         &frame.ArtifactOpen{Path: "\xff"},
		"empty data":                 &frame.FileData{},
		"too much data":              &frame.FileData{Data: make([]byte, frame.MaxData+1)},
		"too much output":            &frame.Output{Step: 1, Stream: 1, Data: make([]byte, frame.MaxData+1)},
		"output on stdin":            &frame.Output{Step: 1, Stream: 0, Data: []byte("x")},
		"output on a third stream":   &frame.OutputEOF{Step: 1, Stream: 3},
		"exit with code and signal":  &frame.StepExit{Step: 1, Code: 1, Signal: 9},
		"exit with signal 65":        &frame.StepExit{Step: 1, Signal: 65},
		"exit with negative time":    &frame.StepExit{Step: 1, WallUS: -1},
		"signal 0":                   &frame.Signal{Step: 1},
		"tree with SIGTERM":          &frame.Signal{Step: 1, Number: 15, Tree: true},
		"window larger than allowed": &frame.StdinTaken{Step: 1, Bytes: frame.StdinWindow + 1},
		"no bytes taken":             &frame.StdinTaken{Step: 1},
		"bad glob":                   &frame.Collect{Globs: []string{"[a"}},
		"glob above":                 &frame.Collect{Globs: []string{"../*"}},
		"many globs":                 &frame.Collect{Globs: many("a", frame.MaxGlobs+1)},
		"unknown skip reason":        &frame.CollectDone{Skipped: 1, Skips: []frame.Skip{{}}},
		"more skips named than had":  &frame.CollectDone{Skips: []frame.Skip{{Reason: frame.SkipType}}},
		"unknown layout":             &frame.Hello{Version: 1},
		"unknown error code":         &frame.Error{Code: 99},
		"settings without buffer":    &frame.Settings{SilenceMS: 1000},
		"settings without patience":  &frame.Settings{Buffer: 1 << 20},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			var pipe bytes.Buffer
			if err := frame.NewWriter(&pipe).Write(f); !errors.Is(err, frame.ErrMalformed) {
				t.Errorf("written with %v", err)
			}
			if pipe.Len() != 0 {
				t.Errorf("%d bytes written", pipe.Len())
			}
		})
	}
}

func many(s string, n int) []string {
	return strings.Split(strings.Repeat(s+"\n", n-1)+s, "\n")
}

// raw builds a frame whatever its form.
func raw(kind byte, payload ...byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), kind), payload...)
}

func TestForgedBytesAreRefused(t *testing.T) {
	output := encode(t, &frame.Output{Step: 1, Stream: frame.Stdout, Data: []byte("x")})
	cases := map[string]struct {
		from  frame.Side
		bytes []byte
	}{
		"kind zero":                    {frame.Agent, raw(0)},
		"unknown kind":                 {frame.Agent, raw(127)},
		"kind of the other direction":  {frame.Agent, raw(byte(frame.KindShutdown))},
		"the other way about":          {frame.Worker, output},
		"spare bytes":                  {frame.Agent, raw(byte(frame.KindStepStarted), 0, 0, 0, 1, 0)},
		"spare bytes in an empty one":  {frame.Worker, raw(byte(frame.KindBeat), 0)},
		"length of four gibibytes":     {frame.Agent, []byte{255, 255, 255, 255, byte(frame.KindOutput)}},
		"length over the bound":        {frame.Agent, []byte{0, 1, 0, 1, byte(frame.KindOutput)}},
		"flag that is two":             {frame.Worker, raw(byte(frame.KindSignal), 0, 0, 0, 1, 9, 2)},
		"list longer than its payload": {frame.Worker, raw(byte(frame.KindCollect), 0, 0, 0, 60)},
		"list of four billion":         {frame.Worker, raw(byte(frame.KindCollect), 255, 255, 255, 255)},
		"text longer than its payload": {frame.Agent, raw(byte(frame.KindError), 3, 0, 0, 0, 9, 'a')},
		"size with the sign bit":       {frame.Agent, raw(byte(frame.KindFilesDone), 0, 0, 0, 1, 255, 0, 0, 0, 0, 0, 0, 0)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := frame.NewReader(bytes.NewReader(c.bytes), c.from).Next()
			if !errors.Is(err, frame.ErrMalformed) {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
}

// A header alone must not make the reader allocate what it promises.
func TestReaderAllocatesWithinTheBound(t *testing.T) {
	header := []byte{0, 1, 0, 0, byte(frame.KindOutput)}
	bytesOf := func(f func()) int64 {
		return testing.Benchmark(func(b *testing.B) {
			for range b.N {
				f()
			}
		}).AllocedBytesPerOp()
	}
	n := bytesOf(func() { _, _ = frame.NewReader(bytes.NewReader(header), frame.Agent).Next() })
	if n > 128<<10 {
		t.Errorf("%d bytes allocated for an empty frame", n)
	}
}

type brokenPipe struct{ n int }

func (p *brokenPipe) Write(b []byte) (int, error) {
	p.n++
	return 0, io.ErrClosedPipe
}

func TestWriterStopsAtTheFirstFailedWrite(t *testing.T) {
	p := &brokenPipe{}
	w := frame.NewWriter(p)
	for range 3 {
		if err := w.Write(&frame.Beat{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%v", err)
		}
	}
	if p.n != 1 {
		t.Errorf("%d writes to a broken pipe", p.n)
	}
}

// FuzzDecode: whatever the bytes, a reader gives valid frames or an error, and what it gives encodes to what it read.
func FuzzDecode(f *testing.F) {
	var all []byte
	for _, s := range samples {
		b := encode(f, s)
		f.Add(uint8(sender(s)), b)
		all = append(all, b...)
	}
	f.Add(uint8(frame.Agent), all)
	f.Fuzz(func(t *testing.T, from uint8, data []byte) {
		in := bytes.NewReader(data)
		r := frame.NewReader(in, frame.Side(from))
		rest := data
		for {
			got, err := r.Next()
			if err != nil {
				return
			}
			again, err := frame.Append(nil, got)
			if err != nil {
				t.Fatalf("read %+v, which cannot be written: %v", got, err)
			}
			if !bytes.HasPrefix(rest, again) {
				t.Fatalf("read %+v from %x, written again it is %x", got, rest, again)
			}
			rest = rest[len(again):]
		}
	})
}
