package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// up starts the server and returns when it is ready. What it returns stops it.
func (d demonstration) up(ctx context.Context, images []string) (stop func() error, err error) {
	cmd := exec.Command(d.sandlot, "up", "--data-dir", d.dir, "--listen", "127.0.0.1:0", "--prepare", strings.Join(images, ","))
	cmd.Stderr = os.Stderr
	// Ctrl-C at the terminal is for the demo, which then stops its server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		watch(stdout, ready)
		ended <- cmd.Wait()
	}()
	stop = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			return errors.Join(errors.New("the server does not stop"), cmd.Process.Kill())
		}
	}
	select {
	case <-ready:
		return stop, nil
	case err := <-ended:
		if err == nil {
			err = errors.New("exit status 0")
		}
		return nil, fmt.Errorf("the server ended before it was ready: %w", err)
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), stop())
	}
}

// watch prints what the server says, and tells when the block that begins
// with "ready" has been printed.
func watch(stdout io.Reader, ready chan<- struct{}) {
	in := bufio.NewScanner(stdout)
	for in.Scan() {
		fmt.Println(in.Text())
		if ready != nil && strings.HasPrefix(in.Text(), "  try") {
			close(ready)
			ready = nil
		}
	}
}
