package image

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// mountPoint is a directory that every image has, because a sandbox mounts
// something there and its root is read-only.
type mountPoint struct {
	path  string
	mode  int64
	owner int
}

// user is the uid and gid that jobs run as.
const user = 1000

func mountPoints() []mountPoint {
	return []mountPoint{
		{"dev", 0o755, 0}, {"dev/pts", 0o755, 0}, {"dev/shm", 0o1777, 0},
		{"home", 0o755, 0}, {"home/sandlot", 0o755, user},
		{"proc", 0o755, 0}, {"root", 0o700, 0},
		{"run", 0o755, 0}, {"run/sandlot", 0o755, 0}, {"run/sandlot/agent", 0o755, 0}, {"run/sandlot/disk", 0o755, 0},
		{"sys", 0o755, 0}, {"tmp", 0o1777, 0}, {"work", 0o755, user},
	}
}

func (m mountPoint) header() *tar.Header {
	return &tar.Header{
		Typeflag: tar.TypeDir, Name: m.path + "/", Mode: m.mode, Uid: m.owner, Gid: m.owner,
		ModTime: epoch(), Format: tar.FormatPAX,
	}
}

// treeWriter writes a directory tree as a layer that depends on names,
// contents, modes and links alone: sorted, one time, one owner, no extended
// attributes, no set-id bits, no devices.
type treeWriter struct {
	tar  *tar.Writer
	root string
	// own are the mount points, which are as mountPoints says and empty.
	own map[string]mountPoint
	// seen is the first name of a file that has several.
	seen map[uint64]string
	// progress is told the bytes of contents written so far.
	progress   func(done int64)
	done, told int64
}

// progressStep is how many bytes lie between two reports.
const progressStep = 1 << 20

func writeTree(ctx context.Context, w io.Writer, root string, progress func(done int64)) error {
	t := &treeWriter{tar: tar.NewWriter(w), root: root, own: map[string]mountPoint{}, seen: map[uint64]string{}, progress: progress}
	for _, m := range mountPoints() {
		t.own[m.path] = m
	}
	// WalkDir goes in lexical order and follows no links.
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return t.add(path, entry)
	})
	if err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	if err := t.tar.Close(); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	return nil
}

func (t *treeWriter) add(path string, entry fs.DirEntry) error {
	name, err := filepath.Rel(t.root, path)
	if err != nil || name == "." {
		return err
	}
	if m, ok := t.own[name]; ok {
		return t.tar.WriteHeader(m.header())
	}
	if t.below(name) {
		if entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{
		Name: name, Mode: int64(info.Mode().Perm()), ModTime: epoch(), Format: tar.FormatPAX,
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if info.Mode()&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		return t.tar.WriteHeader(h)
	case fs.ModeSymlink:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
		return t.tar.WriteHeader(h)
	case 0:
		return t.file(path, h, info)
	}
	return nil // a device, pipe or socket: no image needs one
}

// below reports whether name lies in a mount point that is not one itself.
func (t *treeWriter) below(name string) bool {
	top, _, nested := strings.Cut(name, string(filepath.Separator))
	if _, ok := t.own[top]; !ok || !nested {
		return false
	}
	return true
}

func (t *treeWriter) file(path string, h *tar.Header, info fs.FileInfo) error {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		if first, ok := t.seen[stat.Ino]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return t.tar.WriteHeader(h)
		}
		t.seen[stat.Ino] = h.Name
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := t.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(t.tar, file)
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if t.done += n; t.done-t.told >= progressStep {
		t.told = t.done
		t.progress(t.done)
	}
	return nil
}

// treeSize is how many bytes the files of a tree hold.
func treeSize(root string) (int64, error) {
	var total int64
	err := filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		total += info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure tree: %w", err)
	}
	return total, nil
}
