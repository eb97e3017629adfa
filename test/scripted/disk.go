package scripted

import (
	"path"
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// disk is the file system of one sandbox: names and contents.
type disk struct {
	limit job.Bytes
	files map[string]*file
	dirs  map[string]bool
}

type file struct {
	data []byte
	mode string
}

func newDisk(limit job.Bytes) *disk {
	return &disk{limit: limit, files: map[string]*file{}, dirs: map[string]bool{"/work": true, "/tmp": true}}
}

func (d *disk) put(name string, data []byte, mode string) {
	d.files[name] = &file{data, mode}
	d.mkdir(path.Dir(name))
}

func (d *disk) mkdir(name string) {
	for ; name != "/" && name != "."; name = path.Dir(name) {
		d.dirs[name] = true
	}
}

// write appends to a file that exists and says whether all of it fit.
func (d *disk) write(name string, data []byte) bool {
	used := 0
	for _, f := range d.files {
		used += len(f.data)
	}
	n := min(len(data), int(d.limit)-used)
	f := d.files[name]
	f.data = append(f.data, data[:n]...)
	return n == len(data)
}

// matching lists the files below /work that one of the patterns names.
func (d *disk) matching(patterns []string) []string {
	var names []string
	for name := range d.files {
		relative, below := strings.CutPrefix(name, "/work/")
		for _, pattern := range patterns {
			if ok, err := path.Match(pattern, relative); below && ok && err == nil {
				names = append(names, relative)
				break
			}
		}
	}
	slices.Sort(names)
	return names
}
