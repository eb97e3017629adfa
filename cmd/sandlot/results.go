package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// resultFile takes the results of a batch as they come. Each line reaches the
// file whole and at once, so that an interrupted batch loses none.
type resultFile struct {
	mu   sync.Mutex
	file *os.File
	// keys are those that have their line.
	keys map[string]bool
}

// createResults begins a new file.
func createResults(path string) (*resultFile, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create results: %w", err)
	}
	return &resultFile{file: f, keys: map[string]bool{}}, nil
}

// continueResults goes on with a file that an interrupted batch left behind.
// A line cut short is dropped, and so are refused lines: they get another
// chance.
func continueResults(path string) (*resultFile, error) {
	old, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return createResults(path)
	}
	if err != nil {
		return nil, fmt.Errorf("continue results: %w", err)
	}
	defer old.Close()
	r, err := createResults(path + ".part")
	if err != nil {
		return nil, err
	}
	if err := r.copyEnded(old); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("continue results: %w", err)
	}
	if err := os.Rename(path+".part", path); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("continue results: %w", err)
	}
	return r, nil
}

func (r *resultFile) copyEnded(old io.Reader) error {
	in := bufio.NewReaderSize(old, 1<<20)
	out := bufio.NewWriterSize(r.file, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		var head struct {
			Key   string `json:"key"`
			State string `json:"state"`
		}
		if json.Unmarshal(bytes.TrimSpace(line), &head) != nil || head.Key == "" || head.State == string(api.Rejected) || r.keys[head.Key] {
			continue
		}
		r.keys[head.Key] = true
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
}

// has reports whether the key has its line.
func (r *resultFile) has(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[key]
}

// count is how many keys have their line.
func (r *resultFile) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.keys)
}

// add writes v as the line of key, unless that has one. An empty key stands
// for lines without.
func (r *resultFile) add(key string, v any) (bool, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return false, fmt.Errorf("encode result of %q: %w", key, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if key != "" && r.keys[key] {
		return false, nil
	}
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return false, fmt.Errorf("write results: %w", err)
	}
	if key != "" {
		r.keys[key] = true
	}
	return true, nil
}

// Close closes the file.
func (r *resultFile) Close() error { return r.file.Close() }
