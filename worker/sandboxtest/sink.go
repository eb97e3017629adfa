package sandboxtest

import (
	"bytes"
	"io"
	"sync"

	"github.com/sandlot-dev/sandlot/worker"
)

// Sink keeps all that comes out of a sandbox. Its zero value is ready.
type Sink struct {
	// OnOutput is called after each chunk; optional. Its error is Output's.
	OnOutput func(step int, stream worker.Stream, data []byte) error

	mu        sync.Mutex
	output    map[place]*bytes.Buffer
	artifacts map[string]*bytes.Buffer
	sealed    map[string]bool
}

// place is where output came from.
type place struct {
	step   int
	stream worker.Stream
}

// Output keeps data.
func (s *Sink) Output(step int, stream worker.Stream, data []byte) error {
	s.mu.Lock()
	if s.output == nil {
		s.output = map[place]*bytes.Buffer{}
	}
	at := place{step, stream}
	if s.output[at] == nil {
		s.output[at] = new(bytes.Buffer)
	}
	s.output[at].Write(data)
	s.mu.Unlock()
	if s.OnOutput != nil {
		return s.OnOutput(step, stream, data)
	}
	return nil
}

// Artifact opens a place in memory.
func (s *Sink) Artifact(path string, _ int64) (io.WriteCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.artifacts == nil {
		s.artifacts, s.sealed = map[string]*bytes.Buffer{}, map[string]bool{}
	}
	s.artifacts[path] = new(bytes.Buffer)
	return &artifact{s, path}, nil
}

// Text is what the step wrote to the stream so far.
func (s *Sink) Text(step int, stream worker.Stream) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.output[place{step, stream}]; b != nil {
		return b.String()
	}
	return ""
}

// Artifacts are those that were sealed, by path.
func (s *Sink) Artifacts() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]string{}
	for path := range s.sealed {
		all[path] = s.artifacts[path].String()
	}
	return all
}

type artifact struct {
	sink *Sink
	path string
}

func (a *artifact) Write(p []byte) (int, error) {
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	return a.sink.artifacts[a.path].Write(p)
}

func (a *artifact) Close() error {
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	a.sink.sealed[a.path] = true
	return nil
}
