package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

func newFiles(t *testing.T) (*files, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(root) })
	return &files{settings: &frame.Settings{FileMax: 10, FilesMax: 15, FileCount: 2}, root: root}, dir
}

func TestFilesOutOfOrderAreTheWorkersMistake(t *testing.T) {
	open := func(path string, size int64) frame.Frame { return &frame.FileOpen{Path: path, Mode: 0o644, Size: size} }
	data := &frame.FileData{Data: []byte("x")}
	cases := map[string][]frame.Frame{
		"data first":                {data},
		"end first":                 {&frame.FileEnd{}},
		"file in a file":            {open("a", 1), open("b", 1)},
		"too much data":             {open("a", 1), data, data},
		"too little data":           {open("a", 1), &frame.FileEnd{}},
		"batch ends in a file":      {open("a", 0), &frame.FilesEnd{}},
		"too large":                 {open("a", 11)},
		"too many":                  {open("a", 0), &frame.FileEnd{}, open("b", 0), &frame.FileEnd{}, open("c", 0)},
		"too large together":        {open("a", 1), data, &frame.FileEnd{}, open("b", 10), open("c", 10)},
		"too much data after error": {open("d/..x/\xff", 1), data, data},
	}
	for name, frames := range cases {
		t.Run(name, func(t *testing.T) {
			p, _ := newFiles(t)
			for i, f := range frames {
				answer, err := p.put(f)
				if last := i == len(frames)-1; last != (err != nil) || answer != nil {
					t.Fatalf("frame %d: %v, %v", i, answer, err)
				}
			}
		})
	}
}

func TestFirstErrorOfABatchIsTheAnswer(t *testing.T) {
	p, dir := newFiles(t)
	if err := os.Symlink("/tmp", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	batch := func(paths ...string) frame.Frame {
		for _, path := range paths {
			for _, f := range []frame.Frame{
				&frame.FileOpen{Path: path, Mode: 0o600, Size: 1}, &frame.FileData{Data: []byte("x")}, &frame.FileEnd{},
			} {
				if _, err := p.put(f); err != nil {
					t.Fatal(err)
				}
			}
		}
		answer, err := p.put(&frame.FilesEnd{})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	answer, ok := batch("link/x", "good").(*frame.Error)
	if !ok || answer.Path != "link/x" || answer.Code != frame.CodeFile {
		t.Errorf("%+v", answer)
	}
	done, ok := batch("d/good", "d/better").(*frame.FilesDone)
	if !ok || done.Count != 2 || done.Bytes != 2 {
		t.Errorf("after an error: %+v", done)
	}
}
