package testenv

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// NATS starts a nats-server with a store of its own and returns its URL once
// it listens.
func NATS(t testing.TB, binary string) string {
	t.Helper()
	// The port is given up for a moment; nobody else asks for it by chance.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	Start(t, Command{Path: binary, Args: []string{
		"-a", "127.0.0.1", "-p", fmt.Sprint(address.Port), "-js", "-sd", ShortDir(t),
	}})
	Eventually(t, 20*time.Second, "nats-server listens", func() bool {
		conn, err := net.DialTimeout("tcp", address.String(), time.Second)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	return "nats://" + address.String()
}
