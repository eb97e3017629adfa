package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// Bounds of a walk through what a hostile program may have built.
const (
	maxEntries   = 100_000
	maxDepth     = 128
	maxSkipBytes = 32 << 10 // of names in the answer, which is one frame
)

// collector walks the work directory with the job's permissions, when no process of the job is left.
type collector struct {
	a       *agent
	ask     *frame.Collect
	done    frame.CollectDone
	entries int
	names   int // bytes of the skipped files' names
}

func (a *agent) collect(f *frame.Collect) {
	c := &collector{a: a, ask: f}
	var err error
	a.hands.do(func() { err = c.walk(a.files.root, "", 0) })
	a.setIdle()
	if err != nil {
		a.fail(frame.CodeCollect, "", err)
		return
	}
	a.send(&c.done)
}

// walk visits the entries of a directory in the order of their names.
func (c *collector) walk(dir int, prefix string, depth int) error {
	names, err := c.list(dir)
	if err != nil {
		c.skip(prefix, frame.SkipUnread)
		return nil
	}
	for _, name := range names {
		if err := c.visit(dir, prefix+name, name, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) list(dir int) ([]string, error) {
	// A descriptor of its own: reading moves its offset.
	fd, err := openDir(dir, ".")
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), ".")
	defer file.Close() //nolint:errcheck // only read from
	left := maxEntries - c.entries
	if left <= 0 {
		c.skip("", frame.SkipWalk)
		return nil, nil
	}
	names, err := file.Readdirnames(left)
	if err != nil && err != io.EOF {
		return nil, err
	}
	c.entries += len(names)
	if len(names) == left {
		c.skip("", frame.SkipWalk)
	}
	slices.Sort(names)
	return names, nil
}

func (c *collector) visit(dir int, path, name string, depth int) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // gone; nobody is there who could have done it
	}
	isDir := stat.Mode&unix.S_IFMT == unix.S_IFDIR
	match, below := c.matches(path)
	switch {
	case !match && (!isDir || !below):
		return nil
	case frame.CheckPath(path) != nil:
		c.skip("", frame.SkipName)
		return nil
	case isDir:
		return c.descend(dir, path, name, depth)
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		c.skip(path, frame.SkipType)
		return nil
	}
	return c.send(dir, path, name)
}

// matches tells whether a path is asked for, and whether something below it may be.
func (c *collector) matches(path string) (match, below bool) {
	for _, g := range c.ask.Globs {
		match = match || frame.Match(g, path)
		below = below || frame.MatchBelow(g, path)
	}
	return match, below
}

func (c *collector) descend(dir int, path, name string, depth int) error {
	if depth >= maxDepth {
		c.skip("", frame.SkipWalk)
		return nil
	}
	fd, err := openDir(dir, name)
	if err != nil {
		c.skip(path, frame.SkipUnread)
		return nil
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	return c.walk(fd, path+"/", depth+1)
}

// send sends one file. An error ends the collection: the worker has been promised bytes that are not there.
func (c *collector) send(dir int, path, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		c.skip(path, frame.SkipUnread)
		return nil
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close() //nolint:errcheck // only read from
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		c.skip(path, frame.SkipType)
		return nil
	}
	switch {
	case c.done.Files >= c.ask.Files:
		c.skip(path, frame.SkipCount)
		return nil
	case info.Size() > c.ask.Bytes-c.done.Bytes:
		c.skip(path, frame.SkipBytes)
		return nil
	}
	c.done.Files++
	c.done.Bytes += info.Size()
	c.a.send(&frame.ArtifactOpen{Path: path, Mode: uint32(info.Mode().Perm()), Size: info.Size()})
	if err := c.copy(file, info.Size()); err != nil {
		return fmt.Errorf("read artifact %s: %w", path, err)
	}
	c.a.send(&frame.ArtifactEnd{})
	return nil
}

func (c *collector) copy(file *os.File, size int64) error {
	buf := make([]byte, frame.MaxData)
	for size > 0 {
		n, err := io.ReadFull(file, buf[:min(size, frame.MaxData)])
		if err != nil {
			return err
		}
		c.a.send(&frame.ArtifactData{Data: buf[:n]})
		size -= int64(n)
	}
	return nil
}

func (c *collector) skip(path string, reason frame.SkipReason) {
	c.done.Skipped++
	c.names += len(path)
	if len(c.done.Skips) < frame.MaxSkipped && c.names <= maxSkipBytes {
		c.done.Skips = append(c.done.Skips, frame.Skip{Path: path, Reason: reason})
	}
}
