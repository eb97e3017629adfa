package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// sandlotUp is `sandlot up` as a process of its own.
type sandlotUp struct {
	cmd    *exec.Cmd
	client *client.Client
}

func startSandlot(ctx context.Context, sandlot, dir string, slots int) (contender, error) {
	images := []string{}
	for _, p := range programs {
		images = append(images, p.image)
	}
	cmd := exec.Command(sandlot, "up", "--data-dir", dir, "--listen", "127.0.0.1:0",
		"--slots", strconv.Itoa(slots), "--prepare", strings.Join(images, ","))
	cmd.Stderr = os.Stderr
	// Ctrl-C at the terminal is for the bench, which then stops its server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &sandlotUp{cmd: cmd}
	ready := make(chan error, 1)
	go func() {
		in := bufio.NewScanner(stdout)
		ready <- awaitReady(in)
		for in.Scan() { // keep the pipe empty
		}
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		err = s.connect(dir)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func awaitReady(in *bufio.Scanner) error {
	for in.Scan() {
		if strings.Contains(in.Text(), "is ready") {
			return nil
		}
	}
	return errors.New("sandlot up ended before it was ready")
}

func (s *sandlotUp) connect(dir string) error {
	address, err := os.ReadFile(filepath.Join(dir, "address"))
	if err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return err
	}
	s.client = client.New(client.Config{
		Server: strings.TrimSpace(string(address)), Token: strings.TrimSpace(string(token)), Patience: -1,
	})
	return nil
}

func (s *sandlotUp) once(ctx context.Context, p program) error {
	j, err := s.client.Submit(ctx, api.Submit{Image: p.image, Command: p.command}, time.Minute)
	if err != nil {
		return err
	}
	if j.State != job.Succeeded || len(j.Steps) != 1 || j.Steps[0].Stdout.Text != p.output {
		return fmt.Errorf("job %s is %s: %+v", j.ID, j.State, j.Verdict)
	}
	return nil
}

func (s *sandlotUp) close() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}
