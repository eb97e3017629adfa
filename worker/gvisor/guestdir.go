package gvisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// guestDir is the host's directory that every sandbox sees as its guestDir.
func (c *Containerd) guestDir() string { return filepath.Join(c.layout.dir, "worker", "guest") }

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
