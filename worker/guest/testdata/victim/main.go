// Command victim is what tests run inside a box: the things that a shell cannot do.
package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "flood":
		flood(number(2))
	case "exit":
		fmt.Print("last words")
		os.Exit(number(2))
	case "limits":
		limits()
	case "hide":
		hide()
	case "others":
		others()
	case "attack":
		attack()
	}
}

func number(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	must(err)
	return n
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// flood writes so many bytes of noise to each output, and their sums to a file.
func flood(size int) {
	noise := rand.NewChaCha8([32]byte{byte(size)})
	buf := make([]byte, 5000)
	outs := []*os.File{os.Stdout, os.Stderr}
	hashes := []interface {
		Write([]byte) (int, error)
		Sum([]byte) []byte
	}{sha256.New(), sha256.New()}
	for left := size; left > 0; left -= len(buf) {
		for i, out := range outs {
			b := buf[:min(left, len(buf))]
			noise.Read(b)
			hashes[i].Write(b)
			_, err := out.Write(b)
			must(err)
		}
	}
	must(os.WriteFile("sums", fmt.Appendf(nil, "%x %x", hashes[0].Sum(nil), hashes[1].Sum(nil)), 0o644))
}

// limits prints the limits that a program starts with, which a Go program has changed by now for open files.
func limits() {
	for name, resource := range map[string]int{"core": 4, "files": 7, "processes": 6, "filesize": 1, "stack": 3} {
		var l syscall.Rlimit
		must(syscall.Getrlimit(resource, &l))
		fmt.Println(name, l.Max)
	}
}

// hide leaves the ends of its outputs in a socket that holds itself, so that nobody has them and they are not closed.
func hide() {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	must(err)
	must(syscall.Sendmsg(pair[0], []byte("x"), syscall.UnixRights(1, 2, pair[0], pair[1]), nil, 0))
	fmt.Print("hidden")
}

// others prints the processes that are there besides the agent and this one.
func others() {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(err)
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if pid == "1" || pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		stat, err := os.ReadFile(dir + "/stat")
		fmt.Printf("%s %v\n", stat, err)
	}
}

// attack tries what would give the job power over the agent, and prints what worked.
func attack() {
	try := func(what string, err error) {
		if err == nil {
			fmt.Println("DONE", what)
		}
	}
	open := func(path string, flags int) error {
		fd, err := syscall.Open(path, flags|syscall.O_NONBLOCK, 0)
		if err == nil {
			syscall.Close(fd)
		}
		return err
	}
	for fd := range 16 {
		for _, flags := range []int{syscall.O_RDONLY, syscall.O_WRONLY, syscall.O_RDWR} {
			try(fmt.Sprintf("open the agent's descriptor %d with %d", fd, flags), open(fmt.Sprintf("/proc/1/fd/%d", fd), flags))
		}
	}
	try("read the agent's memory", open("/proc/1/mem", syscall.O_RDONLY))
	try("write the agent's memory", open("/proc/1/mem", syscall.O_RDWR))
	tasks, _ := filepath.Glob("/proc/1/task/*")
	for _, task := range append(tasks, "/proc/1/task/1") {
		tid, _ := strconv.Atoi(filepath.Base(task))
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGSTOP, 0} {
			try(fmt.Sprintf("signal %d to thread %d", sig, tid), syscall.Tgkill(1, tid, sig))
		}
		try(fmt.Sprintf("trace thread %d", tid), syscall.PtraceAttach(tid))
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGHUP} {
		try(fmt.Sprintf("signal %d to the agent", sig), syscall.Kill(1, sig))
	}
	try("become root", syscall.Setuid(0))
	try("become another", syscall.Setuid(1001))
	try("remount root", syscall.Mount("none", "/", "", syscall.MS_REMOUNT, ""))
	try("mount a disk", syscall.Mount("tmpfs", "/work", "tmpfs", 0, ""))
	try("unmount the work directory", syscall.Unmount("/work", syscall.MNT_DETACH))
	try("change root", syscall.Chroot("/work"))
	try("replace the agent", os.WriteFile("/run/sandlot/agent/sandlot-agent", nil, 0o755))
	try("change what the agent sees as PATH", os.WriteFile("/bin/sh", nil, 0o755))
	for _, dir := range []string{"/", "/run", "/run/sandlot", "/run/sandlot/disk", "/run/sandlot/agent", "/dev", "/etc", "/proc", "/sys"} {
		path := filepath.Join(dir, "x")
		try("write "+path, os.WriteFile(path, nil, 0o644))
	}
	status, err := os.ReadFile("/proc/self/status")
	must(err)
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Cap") && !strings.HasSuffix(line, "\t0000000000000000\n") {
			fmt.Print("HAS ", line)
		}
	}
}
