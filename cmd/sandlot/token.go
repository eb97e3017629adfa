package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ensureToken reads the token in a file, or makes one there that only the
// owner can read.
func ensureToken(path string) (string, error) {
	token, err := readLine(path)
	if err == nil && token == "" {
		return "", fmt.Errorf("token: %s is empty; remove it to get a new one", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	token = rand.Text()
	if err := os.WriteFile(path+".new", []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return token, nil
}
