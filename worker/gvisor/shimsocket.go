package gvisor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// shimSocket is where the shim of a task listens; empty if it cannot be known,
// as with a host's containerd.
func (c *Containerd) shimSocket(id string) string {
	bundle := filepath.Join(c.layout.state(), "io.containerd.runtime.v2.task", Namespace, id)
	address, err := os.ReadFile(filepath.Join(bundle, "address"))
	if err != nil {
		return ""
	}
	path, ok := strings.CutPrefix(string(address), "unix://")
	if !ok || filepath.Dir(path) != c.layout.shims() {
		return ""
	}
	return path
}

// removeFile removes a file that may be gone, or not be known.
func removeFile(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
