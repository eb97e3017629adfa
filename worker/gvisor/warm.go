package gvisor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
)

// warm reads every file below the given places and returns how many bytes
// there were. The kernel charges a page of a file to whoever reads it first:
// read by the worker, an image costs no sandbox anything. Were it the sandbox
// that reads first, a job with a small memory limit would evict and read its
// own image for ever.
func warm(ctx context.Context, places []string) (int64, error) {
	var total int64
	buffer := make([]byte, 1<<20)
	for _, place := range places {
		err := filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := readThrough(path, buffer)
			total += n
			return err
		})
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func readThrough(path string, buffer []byte) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total int64
	for {
		n, err := f.Read(buffer)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// dirsOf are the host's directories that a view is made of: one that is bound,
// or the layers of an overlay.
func dirsOf(mounts []mount.Mount) []string {
	var dirs []string
	for _, m := range mounts {
		if m.Type != "overlay" {
			dirs = append(dirs, m.Source)
			continue
		}
		for _, option := range m.Options {
			if lower, ok := strings.CutPrefix(option, "lowerdir="); ok {
				dirs = append(dirs, strings.Split(lower, ":")...)
			}
		}
	}
	return dirs
}
