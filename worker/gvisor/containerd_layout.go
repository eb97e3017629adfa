package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// layout is where an instance keeps what containerd and runsc need.
//
//	DIR/worker/containerd   images and snapshots, survive restarts
//	DIR/worker/state        bundles of running tasks
//	DIR/worker/tmp          temporary files
//	DIR/log/containerd.log
//	RUN/c.sock t.sock n.sock  containerd's API, its shims' events, its readiness
//	RUN/d.sock                the resident runtime
//	RUN/s/  RUN/r/  RUN/f/    shims' sockets, runsc's root, stdio FIFOs
//
// RUN is DIR/run if that is short enough, else a directory of its own.
type layout struct {
	dir string
	run string
}

// Paths of Unix sockets end at 107 bytes. The longest one of ours is runsc's
// control socket of a sandbox with an id of 64 bytes,
//
//	RUN/r/sandlot/runsc-<id>.sock
//
// and runsc puts one that does not fit into a global directory.
const (
	maxSocketPath = 107
	maxSandboxID  = 64
	maxRunDir     = maxSocketPath - len("/r/"+Namespace+"/runsc-.sock") - maxSandboxID
)

func (l layout) root() string      { return filepath.Join(l.dir, "worker", "containerd") }
func (l layout) state() string     { return filepath.Join(l.dir, "worker", "state") }
func (l layout) tmp() string       { return filepath.Join(l.dir, "worker", "tmp") }
func (l layout) lock() string      { return filepath.Join(l.dir, "worker", "lock") }
func (l layout) config() string    { return filepath.Join(l.dir, "worker", "containerd.toml") }
func (l layout) groups() string    { return filepath.Join(l.dir, "worker", "cgroups") }
func (l layout) runsc() string     { return filepath.Join(l.dir, "worker", "runsc.toml") }
func (l layout) log() string       { return filepath.Join(l.dir, "log", "containerd.log") }
func (l layout) socket() string    { return filepath.Join(l.run, "c.sock") }
func (l layout) events() string    { return filepath.Join(l.run, "t.sock") }
func (l layout) notify() string    { return filepath.Join(l.run, "n.sock") }
func (l layout) resident() string  { return filepath.Join(l.run, "d.sock") }
func (l layout) shims() string     { return filepath.Join(l.run, "s") }
func (l layout) runscRoot() string { return filepath.Join(l.run, "r") }
func (l layout) fifos() string     { return filepath.Join(l.run, "f") }

// newLayout checks the data directory's path and makes the directories in it.
func newLayout(dir string) (layout, error) {
	if !filepath.IsAbs(dir) {
		return layout{}, fmt.Errorf("data directory %q is not absolute", dir)
	}
	l := layout{dir: filepath.Clean(dir)}
	// The path goes into options of overlay mounts, which have no quoting
	// that every tool on the way understands, and into quoted TOML.
	if i := strings.IndexAny(l.dir, ":,'\\\"\n\t"); i >= 0 {
		return layout{}, fmt.Errorf("data directory %q: character %q is not possible in mount options", dir, l.dir[i])
	}
	for _, d := range []string{l.root(), l.state(), l.tmp(), filepath.Dir(l.log())} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return layout{}, fmt.Errorf("data directory: %w", err)
		}
	}
	return l, nil
}

// runDirs lists the places where RUN may be, best first. All of them are swept
// at start, since an earlier life may have seen another environment.
func (l layout) runDirs() []string {
	var dirs []string
	for _, dir := range []string{
		filepath.Join(l.dir, "run"),
		filepath.Join("/run", InstanceName(l.dir)),
		filepath.Join(os.TempDir(), InstanceName(l.dir)),
		filepath.Join("/tmp", InstanceName(l.dir)),
	} {
		if len(dir) <= maxRunDir {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// makeRunDir makes RUN, empty, for this user only.
func (l *layout) makeRunDir() error {
	var failed error
	for _, dir := range l.runDirs() {
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			l.run = dir
			for _, d := range []string{l.shims(), l.runscRoot(), l.fifos()} {
				if err := os.Mkdir(d, 0o700); err != nil {
					return fmt.Errorf("socket directory: %w", err)
				}
			}
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return fmt.Errorf("socket directory: %w", failed)
}

// removeRunDirs removes RUN wherever it may be. A directory that is not ours
// is somebody else's bait in a public place: it stays, and is not used.
func (l layout) removeRunDirs() error {
	var failed error
	for _, dir := range l.runDirs() {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !info.IsDir() || !ownedByUs(info) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			failed = errors.Join(failed, fmt.Errorf("remove socket directory: %w", err))
		}
	}
	return failed
}

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// takeLock keeps a second worker out of the directory: its sweep would kill
// the first one's sandboxes. The kernel drops the lock with the process.
func (l layout) takeLock() (*os.File, error) {
	f, err := os.OpenFile(l.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s: %w", l.dir, ErrInUse)
		}
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return f, nil
}

// ErrInUse means that another worker runs on the same data directory.
var ErrInUse = errors.New("in use by another worker")
