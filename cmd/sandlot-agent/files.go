package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// files puts a batch of files below the work directory. All its methods run on a thread with the job's permissions.
// The first thing that goes wrong is kept and answered at the end of the batch; what follows it is thrown away.
type files struct {
	settings *frame.Settings
	root     int // the work directory

	count uint32
	bytes int64
	open  *frame.FileOpen
	fd    int
	left  int64
	err   *frame.Error
}

func (p *files) openRoot() error {
	fd, err := unix.Open(workDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", workDir, err)
	}
	p.root = fd
	return nil
}

// put takes the next frame of a batch. The answer is nil until the batch ends; an error is one of protocol.
func (p *files) put(f frame.Frame) (frame.Frame, error) {
	switch f := f.(type) {
	case *frame.FileOpen:
		if p.open != nil {
			return nil, errors.New("file opened in the middle of another")
		}
		return nil, p.begin(f)
	case *frame.FileData:
		if p.open == nil || int64(len(f.Data)) > p.left {
			return nil, errors.New("data without a file that wants it")
		}
		p.write(f.Data)
		return nil, nil
	case *frame.FileEnd:
		if p.open == nil || p.left != 0 {
			return nil, errors.New("file ended too early")
		}
		p.end()
		return nil, nil
	}
	if p.open != nil {
		return nil, errors.New("files ended in the middle of one")
	}
	return p.finish(), nil
}

// begin opens a file. Passing a limit is the worker's mistake: it knows them.
func (p *files) begin(f *frame.FileOpen) error {
	p.count++
	p.bytes += f.Size
	if p.count > p.settings.FileCount || f.Size > p.settings.FileMax || p.bytes > p.settings.FilesMax {
		return errors.New("files larger or more than the settings allow")
	}
	p.open, p.left, p.fd = f, f.Size, -1
	if p.err != nil {
		return nil
	}
	fd, err := createBelow(p.root, f.Path)
	if err != nil {
		p.keep(err)
		return nil
	}
	p.fd = fd
	return nil
}

func (p *files) write(data []byte) {
	p.left -= int64(len(data))
	for len(data) > 0 && p.fd >= 0 {
		n, err := unix.Write(p.fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			p.keep(err)
			return
		}
		data = data[n:]
	}
}

func (p *files) end() {
	if p.fd >= 0 {
		if err := unix.Fchmod(p.fd, p.open.Mode); err != nil {
			p.keep(err)
		}
	}
	p.drop()
	p.open = nil
}

// keep remembers the first error and gives up the file.
func (p *files) keep(err error) {
	code := frame.CodeFile
	if errors.Is(err, unix.ENOSPC) {
		code = frame.CodeDiskFull
	}
	if p.err == nil {
		p.err = &frame.Error{Code: code, Path: p.open.Path, Text: err.Error()}
	}
	p.drop()
}

func (p *files) drop() {
	if p.fd >= 0 {
		unix.Close(p.fd) //nolint:errcheck // memory has nothing to report on close
	}
	p.fd = -1
}

func (p *files) finish() frame.Frame {
	var answer frame.Frame = &frame.FilesDone{Count: p.count, Bytes: p.bytes}
	if p.err != nil {
		answer = p.err
	}
	*p = files{settings: p.settings, root: p.root}
	return answer
}

// createBelow makes a new file, with the directories it needs. No symbolic link on the way is followed, and one in
// the file's place is replaced.
func createBelow(root int, path string) (int, error) {
	dir, name := root, path
	for {
		part, rest, more := strings.Cut(name, "/")
		if !more {
			break
		}
		next, err := enterDir(dir, part)
		if dir != root {
			unix.Close(dir)
		}
		if err != nil {
			return -1, err
		}
		dir, name = next, rest
	}
	if dir != root {
		defer unix.Close(dir)
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		return -1, &fs.PathError{Op: "replace", Path: path, Err: err}
	}
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return fd, nil
}

// enterDir opens a directory, and makes it if it is not there.
func enterDir(dir int, name string) (int, error) {
	fd, err := openDir(dir, name)
	if err == unix.ENOENT {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			return -1, &fs.PathError{Op: "make directory", Path: name, Err: err}
		}
		fd, err = openDir(dir, name)
	}
	if err != nil {
		return -1, &fs.PathError{Op: "enter directory", Path: name, Err: err}
	}
	return fd, nil
}

// openDir opens a directory that is not a symbolic link. It looks at what it has opened instead of asking for
// O_DIRECTORY: together with that, gVisor forgets O_NOFOLLOW.
func openDir(dir int, name string) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	if err == nil && stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err != nil {
		unix.Close(fd) //nolint:errcheck // nothing was written
		return -1, err
	}
	return fd, nil
}
