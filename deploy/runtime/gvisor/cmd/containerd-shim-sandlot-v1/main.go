// Command containerd-shim-sandlot-v1 is what containerd takes for the shim of
// runtime io.containerd.sandlot.v1. It is run twice for each task and only
// points at the resident runtime (cmd/sandlot-runtime), which serves all of
// them: it names that one's socket when a shim is to be started, and says that
// nothing is left when one is to be cleared away. Once, containerd asks what
// runtime it is.
//
// It links nothing but the bare minimum, since its own start is all it costs.
package main

import (
	"os"
	"strings"
	"syscall"
	"time"
)

// socketEnv names the resident runtime's socket; containerd's configuration
// passes it on.
const socketEnv = "SANDLOT_RUNTIME_SOCKET"

func main() {
	answer, problem := run(os.Args[len(os.Args)-1], os.Getenv(socketEnv))
	if problem != "" {
		_, _ = os.Stderr.WriteString("containerd-shim-sandlot-v1: " + problem + "\n")
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(answer); err != nil {
		os.Exit(1)
	}
}

func run(action, socket string) (answer []byte, problem string) {
	switch action {
	case "start":
		if socket == "" || strings.ContainsAny(socket, "\"\\\n") {
			return nil, socketEnv + " does not name the resident runtime's socket"
		}
		if err := reach(socket); err != nil {
			return nil, "the resident runtime does not serve " + socket + ": " + err.Error()
		}
		return []byte(`{"version":2,"address":"unix://` + socket + `","protocol":"ttrpc"}`), ""
	case "delete":
		return deleted(time.Now()), ""
	case "-info":
		return info(), ""
	}
	return nil, "action " + action + " is none of start, delete and -info"
}

// reach tells a runtime that serves from one that is dead, of which containerd
// would find out after a while.
func reach(socket string) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket})
}

// killed is the status of a task that lost its runtime, and was killed with
// it. Of a task that ended before, containerd knows the true one.
const killed = 128 + int(syscall.SIGKILL)

// deleted is a DeleteResponse (containerd.task.v2) in wire format: exit_status
// is field 2, exited_at field 3, its seconds field 1.
func deleted(at time.Time) []byte {
	seconds := varint([]byte{1 << 3}, uint64(at.Unix()))
	message := varint([]byte{2 << 3}, uint64(killed))
	message = varint(append(message, 3<<3|2), uint64(len(seconds)))
	return append(message, seconds...)
}

// info is a RuntimeInfo (containerd.types) in wire format: name is field 1.
func info() []byte {
	const name = "io.containerd.sandlot.v1"
	return append(varint([]byte{1<<3 | 2}, uint64(len(name))), name...)
}

func varint(to []byte, v uint64) []byte {
	for ; v >= 0x80; v >>= 7 {
		to = append(to, byte(v)|0x80)
	}
	return append(to, byte(v))
}
