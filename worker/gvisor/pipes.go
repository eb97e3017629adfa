package gvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pipes are the three FIFOs between the worker and a sandbox's agent. The shim
// opens the other ends. The worker reads and writes them itself: nothing is
// copied on the way, and what was written before a death can still be read.
type pipes struct {
	dir    string
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	// hold keeps stdin's FIFO open for reading until the shim does so.
	hold *os.File
}

func openPipes(dir string) (_ *pipes, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pipes: %w", err)
	}
	p := &pipes{dir: dir}
	defer func() {
		if err != nil {
			_ = p.close()
		}
	}()
	for _, end := range []struct {
		name string
		flag int
		file **os.File
	}{
		{"stdin", unix.O_RDWR, &p.hold},
		{"stdin", unix.O_WRONLY, &p.stdin},
		{"stdout", unix.O_RDONLY, &p.stdout},
		{"stderr", unix.O_RDONLY, &p.stderr},
	} {
		path := filepath.Join(dir, end.name)
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("pipe %s: %w", path, err)
		}
		if *end.file, err = os.OpenFile(path, end.flag|unix.O_NONBLOCK, 0); err != nil {
			return nil, fmt.Errorf("pipe: %w", err)
		}
	}
	return p, nil
}

// path is a FIFO's name, as containerd is told.
func (p *pipes) path(name string) string { return filepath.Join(p.dir, name) }

// joined says that the shim has opened its ends: from now on an end of file
// means that the sandbox has closed its own.
func (p *pipes) joined() { _ = p.hold.Close() }

// close closes all ends and removes the FIFOs. Closing twice is harmless.
func (p *pipes) close() error {
	for _, f := range []*os.File{p.hold, p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("remove pipes: %w", err)
	}
	return nil
}
