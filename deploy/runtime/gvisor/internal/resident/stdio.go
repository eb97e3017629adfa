package resident

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// stdio names the FIFOs of a process; an empty one is /dev/null.
type stdio struct{ in, out, err string }

// open opens the sandbox's ends. As everywhere in containerd, the other ends
// are opened by whoever asked for the process, before or at the same time.
func (s stdio) open(ctx context.Context) (_ map[int]*os.File, err error) {
	files := map[int]*os.File{}
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	for fd, end := range []struct {
		path string
		flag int
	}{{s.in, os.O_RDONLY}, {s.out, os.O_WRONLY}, {s.err, os.O_WRONLY}} {
		if files[fd], err = openEnd(ctx, end.path, end.flag); err != nil {
			delete(files, fd)
			return nil, fmt.Errorf("open stdio: %w", err)
		}
	}
	return files, nil
}

func closeAll(files map[int]*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// openEnd opens one end of a FIFO, which takes until somebody has the other
// one.
func openEnd(ctx context.Context, path string, flag int) (*os.File, error) {
	if path == "" {
		return os.OpenFile(os.DevNull, flag, 0)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != os.ModeNamedPipe {
		return nil, fmt.Errorf("%s is no FIFO: %w", path, errdefs.ErrNotImplemented)
	}
	type opened struct {
		file *os.File
		err  error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.OpenFile(path, flag, 0)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		return o.file, o.err
	case <-ctx.Done():
	}
	// With both ends here for a moment the open returns.
	if release, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
		defer release.Close()
		if o := <-done; o.file != nil {
			_ = o.file.Close()
		}
	}
	return nil, errors.Join(fmt.Errorf("nobody opens the other end of %s", path), context.Cause(ctx))
}
