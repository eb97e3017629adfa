package guest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// Caps bound a collection.
type Caps struct {
	Files int
	Bytes int64
}

// Collected says what came and what did not.
type Collected struct {
	Files   int
	Bytes   int64
	Skipped int          // matching files that were not sent
	Skips   []frame.Skip // the first of them, by the agent's word
}

// Place opens the place for one artifact. It is closed once the artifact is whole, and only then.
type Place func(path string, mode fs.FileMode, size int64) (io.WriteCloser, error)

// Collect fetches the regular files below the work directory that match one of the globs ("**" is any number of
// directories). Names are checked here too: each matches a glob, none comes twice. No step may be under way. An
// AgentError with CodeCollect, as every other error, ends the session.
func (s *Session) Collect(ctx context.Context, globs []string, caps Caps, place Place) (Collected, error) {
	c := &collection{s: s, globs: globs, caps: caps, place: place, seen: map[string]bool{}}
	ask := &frame.Collect{Globs: globs, Files: uint32(caps.Files), Bytes: caps.Bytes}
	if _, err := frame.Append(nil, ask); err != nil {
		return Collected{}, fmt.Errorf("collect artifacts: %w", err)
	}
	defer s.endsWith(ctx)()
	var writing sync.WaitGroup
	over := make(chan struct{})
	writing.Go(func() {
		if err := s.out.Write(ask); err != nil {
			s.writeFailed(err)
			return
		}
		s.beat(over)
	})
	err := c.follow()
	if err != nil {
		s.abort(err)
		err = fmt.Errorf("collect artifacts: %w", s.Err())
	}
	close(over)
	s.join(&writing)
	return c.got, err
}

type collection struct {
	s     *Session
	globs []string
	caps  Caps
	place Place
	seen  map[string]bool
	got   Collected
	open  io.WriteCloser // the artifact that is coming
	left  int64
}

func (c *collection) follow() error {
	for {
		f, err := c.s.next()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *frame.ArtifactOpen:
			err = c.begin(f)
		case *frame.ArtifactData:
			err = c.write(f.Data)
		case *frame.ArtifactEnd:
			err = c.end()
		case *frame.CollectDone:
			return c.done(f)
		default:
			err = c.s.unexpected(f)
		}
		if err != nil {
			return err
		}
	}
}

func (c *collection) begin(f *frame.ArtifactOpen) (err error) {
	c.got.Files++
	switch {
	case c.open != nil:
		return violation("artifact %q in the middle of another", f.Path)
	case c.seen[f.Path] || !c.asked(f.Path):
		return violation("artifact %q was not asked for", f.Path)
	case c.got.Files > c.caps.Files || f.Size > c.caps.Bytes-c.got.Bytes:
		return violation("more artifacts than asked for")
	}
	c.seen[f.Path] = true
	c.left = f.Size
	c.open, err = c.place(f.Path, fs.FileMode(f.Mode), f.Size)
	if err != nil {
		return fmt.Errorf("make place for %q: %w", f.Path, err)
	}
	return nil
}

func (c *collection) asked(path string) bool {
	for _, g := range c.globs {
		if frame.Match(g, path) {
			return true
		}
	}
	return false
}

func (c *collection) write(data []byte) error {
	n := int64(len(data))
	if c.open == nil || n > c.left {
		return violation("%d bytes of no artifact", n)
	}
	c.left -= n
	c.got.Bytes += n
	if _, err := c.open.Write(data); err != nil {
		return fmt.Errorf("keep artifact: %w", err)
	}
	return nil
}

func (c *collection) end() error {
	if c.open == nil || c.left != 0 {
		return violation("artifact ended too early")
	}
	err := c.open.Close()
	c.open = nil
	if err != nil {
		return fmt.Errorf("keep artifact: %w", err)
	}
	return nil
}

func (c *collection) done(f *frame.CollectDone) error {
	if c.open != nil || int(f.Files) != c.got.Files || f.Bytes != c.got.Bytes {
		return violation("agent counts %d artifacts of %d bytes, received %d of %d",
			f.Files, f.Bytes, c.got.Files, c.got.Bytes)
	}
	c.got.Skipped, c.got.Skips = int(f.Skipped), f.Skips
	return nil
}
