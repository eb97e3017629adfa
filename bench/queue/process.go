package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child that tells on its standard output when it is ready.
type process struct {
	name string
	cmd  *exec.Cmd
	// word is the line that told so, lines has those that follow, as far as
	// somebody reads them.
	word  string
	lines chan string
}

// begin starts a command and waits for the line that holds sign.
func begin(ctx context.Context, name, sign string, cmd *exec.Cmd) (*process, error) {
	cmd.Stderr = os.Stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// Ctrl-C at the terminal is for the bench, which then stops its children;
	// should it be killed they are too.
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, lines: make(chan string, 16)}
	told := make(chan string, 1)
	go func() {
		defer close(p.lines)
		defer close(told)
		in := bufio.NewScanner(out)
		for ready := false; in.Scan(); {
			if !ready {
				if ready = strings.Contains(in.Text(), sign); ready {
					told <- in.Text()
				}
				continue
			}
			select {
			case p.lines <- in.Text():
			default: // the pipe must stay empty
			}
		}
	}()
	select {
	case word, ok := <-told:
		if ok {
			p.word = word
			return p, nil
		}
		err = errors.New("it ended")
	case <-time.After(time.Minute):
		err = errors.New("a minute has passed")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, errors.Join(fmt.Errorf("%s is not ready: %w", name, err), p.stop())
}

// stop asks the process to end, and makes it after ten seconds.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	return nil
}

// used is the processor time that the process and its children, alive or
// waited for, have had.
func (p *process) used() (time.Duration, error) {
	total := time.Duration(0)
	for _, pid := range append([]int{p.cmd.Process.Pid}, children(p.cmd.Process.Pid)...) {
		d, err := usedBy(pid)
		if err != nil && pid == p.cmd.Process.Pid {
			return 0, fmt.Errorf("processor time of %s: %w", p.name, err)
		}
		total += d
	}
	return total, nil
}

// tick is the kernel's unit in /proc, the same on every Linux that Go knows.
const tick = 10 * time.Millisecond

func usedBy(pid int) (time.Duration, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name may hold anything; what follows its bracket is numbers.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	total := 0
	for _, i := range []int{11, 12, 13, 14} { // utime, stime and those of children that were waited for
		n, err := strconv.Atoi(string(fields[i]))
		if err != nil {
			return 0, err
		}
		total += n
	}
	return time.Duration(total) * tick, nil
}

// children are the processes that a process has started.
func children(pid int) []int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var all []int
	for _, word := range strings.Fields(string(data)) {
		if n, err := strconv.Atoi(word); err == nil {
			all = append(all, n)
		}
	}
	return all
}
