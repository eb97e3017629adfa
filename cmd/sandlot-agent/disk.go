package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

const workDir = "/work"

// place is a directory the job may write to.
type place struct {
	path string
	name string // of its directory on the disk
	mode uint32
}

func places() []place {
	return []place{
		{workDir, "work", 0o755},
		{"/tmp", "tmp", 0o1777},
		{"/dev/shm", "shm", 0o1777},
		{"/home/sandlot", "home", 0o755},
	}
}

// prepare makes the writable directories, takes writing away everywhere else, and reports what it found.
func prepare(cfg config) (*frame.Hello, error) {
	hello := &frame.Hello{Version: frame.Version, Layout: frame.OneDisk, CPUs: uint32(runtime.NumCPU())}
	note := func(format string, args ...any) {
		hello.Notes = append(hello.Notes, fmt.Sprintf(format, args...))
	}
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) //nolint:errcheck // a second wall: the job's user may not look anyway
	for _, p := range places() {
		if err := os.MkdirAll(p.path, 0o755); err != nil {
			return nil, fmt.Errorf("make mount point: %w", err)
		}
	}
	if err := bindDisk(cfg); err != nil {
		note("one disk for all directories: %v", err)
		hello.Layout = frame.ManyDisks
		if err := mountEach(cfg); err != nil {
			return nil, err
		}
	}
	var root, disk unix.Statfs_t
	if err := unix.Statfs("/", &root); err != nil {
		return nil, fmt.Errorf("stat root: %w", err)
	}
	if root.Flags&unix.ST_RDONLY == 0 {
		if err := unix.Mount("none", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			note("make root read-only: %v", err)
		}
	}
	hello.RootReadonly = errors.Is(unix.Access("/", unix.W_OK), unix.EROFS)
	if err := unix.Statfs(workDir, &disk); err != nil {
		return nil, fmt.Errorf("stat %s: %w", workDir, err)
	}
	hello.Disk = int64(disk.Blocks) * disk.Bsize
	hello.Kernel, hello.Machine = uname()
	return hello, os.Chdir("/")
}

// bindDisk makes all places directories of the one disk, and takes away the way around them.
func bindDisk(cfg config) error {
	for _, p := range places() {
		dir := filepath.Join(cfg.disk, p.name)
		if err := makePlace(dir, p.mode, cfg); err != nil {
			return err
		}
		if err := unix.Mount(dir, p.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", p.path, err)
		}
	}
	if err := unix.Unmount(cfg.disk, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach %s: %w", cfg.disk, err)
	}
	return nil
}

func makePlace(dir string, mode uint32, cfg config) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make directory on disk: %w", err)
	}
	if err := os.Chown(dir, cfg.uid, cfg.gid); err != nil {
		return fmt.Errorf("give directory to the job: %w", err)
	}
	if err := unix.Chmod(dir, mode); err != nil {
		return fmt.Errorf("set mode of %s: %w", dir, err)
	}
	return nil
}

// mountEach gives every place a disk of its own. The limit then holds for each of them, not for their sum.
func mountEach(cfg config) error {
	for _, p := range places() {
		options := fmt.Sprintf("size=%d,mode=%o,uid=%d,gid=%d", cfg.size, p.mode, cfg.uid, cfg.gid)
		if err := unix.Mount("tmpfs", p.path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", p.path, err)
		}
	}
	return nil
}

func uname() (release, machine string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

// diskUse gives free and total bytes of the job's disk.
func diskUse() (free, total int64) {
	var s unix.Statfs_t
	if err := unix.Statfs(workDir, &s); err != nil {
		return 0, 0
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize
}
