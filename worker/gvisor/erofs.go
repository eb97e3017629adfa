package gvisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// erofsStore makes EROFS files of directories and keeps them by name. A
// sandbox whose root is such a file needs no file server of gVisor's beside
// its kernel: one process less, 20 ms of processor time, and one page cache
// for all sandboxes of an image.
//
// The files are not compressed and hold no data within their inodes: gVisor
// maps what a program executes straight from the file.
type erofsStore struct {
	dir  string
	mkfs string // the program
}

// openErofs is the store in dir, or an error that says why this host can have
// none: sandboxes then have directories, which cost more and do the same.
func openErofs(dir string) (*erofsStore, error) {
	mkfs, err := findMkfs()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// What a killed life left half done.
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return &erofsStore{dir: dir, mkfs: mkfs}, err
}

func findMkfs() (string, error) {
	path, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		return "", errors.New("mkfs.erofs is not installed (Debian: erofs-utils)")
	}
	return path, nil
}

// file is the EROFS file called name, made of what mounts show if it is not
// there yet.
func (s *erofsStore) file(ctx context.Context, name string, mounts []mount.Mount) (string, error) {
	path := filepath.Join(s.dir, name+".erofs")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fresh, err := os.CreateTemp(s.dir, name+"-*.new")
	if err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	_ = fresh.Close()
	defer os.Remove(fresh.Name()) // of no effect after the rename
	if err := s.make(ctx, fresh.Name(), mounts); err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	// Sandboxes are to find it whole after a power loss, or not at all.
	if err := syncFile(fresh.Name()); err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	if err := os.Rename(fresh.Name(), path); err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	return path, nil
}

func (s *erofsStore) make(ctx context.Context, path string, mounts []mount.Mount) error {
	args := []string{"-E", "noinline_data", path}
	var cmd *exec.Cmd
	switch dirs := dirsOf(mounts); {
	case len(dirs) == 1:
		cmd = exec.CommandContext(ctx, s.mkfs, append(args, dirs[0])...)
	case len(mounts) == 1:
		// Layers are put together in a mount namespace of its own, so that
		// nothing stays mounted whoever is killed.
		at, err := os.MkdirTemp(s.dir, "layers-")
		if err != nil {
			return err
		}
		defer os.Remove(at)
		cmd = exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-ec",
			`mount -t "$1" -o "$2" "$1" "$3"; at=$3; mkfs=$4; shift 4; exec "$mkfs" "$@" "$at"`, "sh",
			mounts[0].Type, optionsOf(mounts[0]), at, s.mkfs}, args...)...)
	default:
		return fmt.Errorf("an image of %d mounts", len(mounts))
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("mkfs.erofs: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

func optionsOf(m mount.Mount) string {
	options := "ro"
	for _, o := range m.Options {
		if o != "ro" && o != "rw" {
			options += "," + o
		}
	}
	return options
}

func syncFile(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}

// guest is the EROFS file of the worker's directory inside, named after the
// agent in it.
func (s *erofsStore) guest(ctx context.Context, dir string) (string, error) {
	agent, err := os.Open(filepath.Join(dir, agentName))
	if err != nil {
		return "", fmt.Errorf("place agent: %w", err)
	}
	defer agent.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, agent); err != nil {
		return "", fmt.Errorf("place agent: %w", err)
	}
	return s.file(ctx, "agent-"+hex.EncodeToString(sum.Sum(nil))[:16], []mount.Mount{{Type: "bind", Source: dir}})
}
