package main

import (
	"fmt"
	"net"
	"os"

	"github.com/containerd/containerd/v2/pkg/shim"
)

// listen makes the shim's socket. A file that nobody listens on any more is
// what a killed shim left, and is replaced.
func listen(address string) (*net.UnixListener, error) {
	l, err := shim.NewSocket(address)
	if err == nil {
		return l, nil
	}
	if !shim.SocketEaddrinuse(err) || shim.CanConnect(address) {
		return nil, fmt.Errorf("shim socket: %w", err)
	}
	if err := shim.RemoveSocket(address); err != nil {
		return nil, fmt.Errorf("remove dead shim socket: %w", err)
	}
	if l, err = shim.NewSocket(address); err != nil {
		return nil, fmt.Errorf("shim socket: %w", err)
	}
	return l, nil
}

func writeFile(name, content string) error {
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
