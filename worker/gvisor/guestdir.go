package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// guestDir is the host's directory that every sandbox sees as its guestDir.
func (c *Containerd) guestDir() string { return filepath.Join(c.layout.dir, "worker", "guest") }

// erofsDir holds images as EROFS files.
func (c *Containerd) erofsDir() string { return filepath.Join(c.layout.dir, "worker", "erofs") }

// inside is what every sandbox has of the worker's: the agent, in one of two
// forms.
type inside struct {
	dir string // always there
	// file is the same as an EROFS file, for roots that are one; empty where
	// erofs is nil.
	file  string
	erofs *erofsStore
}

// places are what sandboxes read of it.
func (in inside) places() []string {
	if in.file != "" {
		return []string{in.file}
	}
	return []string{in.dir}
}

// placeInside makes what sandboxes need of the worker's. A host without EROFS
// is told of and gets along without.
func placeInside(ctx context.Context, config Config) (in inside, err error) {
	in.dir = config.Containerd.guestDir()
	if err := placeGuest(config.Binaries.Agent, in.dir); err != nil {
		return in, err
	}
	if config.Directories {
		return in, nil
	}
	if in.erofs, err = openErofs(config.Containerd.erofsDir()); err == nil {
		in.file, err = in.erofs.guest(ctx, in.dir)
	}
	if ctx.Err() != nil {
		return in, context.Cause(ctx)
	}
	if err != nil {
		config.Logger.WarnContext(ctx, "roots of sandboxes are directories", "reason", err)
		in.file, in.erofs = "", nil
	}
	return in, nil
}

// placeGuest fills guestDir: a copy of the agent and an empty directory. It
// holds nothing else, since what is beside the agent where it was installed is
// not the guests' business. Sandboxes of another worker may hold the old file
// open, so it is replaced, not written over.
func placeGuest(agent, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("place agent: %w", err)
		}
	}()
	if err := os.MkdirAll(filepath.Join(dir, diskName), 0o755); err != nil {
		return err
	}
	source, err := os.Open(agent)
	if err != nil {
		return err
	}
	defer source.Close()
	place := filepath.Join(dir, agentName)
	copied, err := os.OpenFile(place+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(copied, source)
	if err := errors.Join(err, copied.Close()); err != nil {
		return err
	}
	return os.Rename(place+".new", place)
}
