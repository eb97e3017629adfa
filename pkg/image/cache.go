package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cache keeps finished archives in a directory:
//
//	KEY.tar    the archive       KEY.json   what it is; written last, so it marks the archive as finished
//	KEY.lock   one maker at a time, across processes     making-KEY-*   of a maker; swept by the next
type cache struct {
	dir    string
	fresh  bool
	report reporter
}

// entry is KEY.json.
type entry struct {
	Name string `json:"name"`
	// Digest is the manifest's; Source and Reference as in Archive.
	Digest    string `json:"digest"`
	Source    string `json:"source,omitempty"`
	Reference string `json:"reference,omitempty"`
	// Remote is the digest that the registry had under the reference.
	Remote string `json:"remote,omitempty"`
	// SHA256 and Size are those of the file.
	SHA256   string    `json:"sha256"`
	Size     int64     `json:"size"`
	Unpacked int64     `json:"unpacked"`
	Made     time.Time `json:"made"`
}

// maker makes an archive in stage, a directory that is removed when the
// archive has been copied into the cache.
type maker func(ctx context.Context, stage string) (Archive, error)

// get returns the archive under key. If it is not there, or its file is not
// what was written, make makes it. A remote that is not empty must be the one
// that the archive was pulled as.
func (c cache) get(ctx context.Context, key, remote string, make maker) (Archive, error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return Archive{}, fmt.Errorf("open image cache: %w", err)
	}
	unlock, err := c.lock(ctx, key)
	if err != nil {
		return Archive{}, err
	}
	defer unlock()
	if err := c.sweep(key); err != nil {
		return Archive{}, err
	}
	if !c.fresh {
		if archive, ok := c.find(key); ok && (remote == "" || archive.remote == remote) {
			c.report.count(StageReady, "cached", archive.Size, archive.Size)
			return archive, nil
		}
	}
	stage, err := os.MkdirTemp(c.dir, stagePrefix(key))
	if err != nil {
		return Archive{}, fmt.Errorf("open image cache: %w", err)
	}
	// runsc and the sandbox of the fix-up reach the tree below it.
	defer os.RemoveAll(stage)
	archive, err := make(ctx, stage)
	if err != nil {
		return Archive{}, err
	}
	kept, err := c.keep(ctx, key, archive)
	if err != nil {
		return Archive{}, err
	}
	c.report.count(StageReady, "", kept.Size, kept.Size)
	return kept, nil
}

func stagePrefix(key string) string { return "making-" + key + "-" }

// lock waits until no other process makes the archive of this key.
func (c cache) lock(ctx context.Context, key string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(c.dir, key+".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock image: %w", err)
	}
	// The kernel cannot be told to give up a blocking flock, so ask again.
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for waited := false; ; waited = true {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock image: %w", err)
		}
		if !waited {
			c.report.say(StageWait, "another process makes it")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			file.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// sweep removes what makers left that were killed.
func (c cache) sweep(key string) error {
	left, err := filepath.Glob(filepath.Join(c.dir, stagePrefix(key)+"*"))
	if err != nil {
		return fmt.Errorf("sweep image cache: %w", err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("sweep image cache: %w", err)
		}
	}
	return nil
}

func (c cache) path(key, suffix string) string { return filepath.Join(c.dir, key+suffix) }

// find returns a finished archive whose file is as it was written.
func (c cache) find(key string) (Archive, bool) {
	e, err := readEntry(c.path(key, ".json"))
	if err != nil {
		return Archive{}, false
	}
	path := c.path(key, ".tar")
	c.report.count(StageVerify, "", 0, e.Size)
	if sum, size, err := sumFile(path); err != nil || sum != e.SHA256 || size != e.Size {
		return Archive{}, false
	}
	// The file is what was checked when it was written: no need to look into
	// its layers again.
	archive, err := openArchive(path, Bounds{}.filled(), false)
	if err != nil || archive.Digest != e.Digest {
		return Archive{}, false
	}
	archive.Source, archive.Reference, archive.remote, archive.Unpacked = e.Source, e.Reference, e.Remote, e.Unpacked
	return archive, true
}

// keep writes the archive into the cache.
func (c cache) keep(ctx context.Context, key string, a Archive) (Archive, error) {
	path := c.path(key, ".tar")
	if err := os.Remove(c.path(key, ".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Archive{}, fmt.Errorf("keep image: %w", err)
	}
	sum, err := writeArchive(ctx, path, a)
	if err != nil {
		return Archive{}, fmt.Errorf("keep image: %w", err)
	}
	text, err := json.MarshalIndent(entry{
		Name: c.report.image, Digest: a.Digest, Source: a.Source, Reference: a.Reference, Remote: a.remote,
		SHA256: sum, Size: a.Size, Unpacked: a.Unpacked, Made: time.Now().UTC(),
	}, "", "  ")
	if err != nil {
		return Archive{}, fmt.Errorf("keep image: %w", err)
	}
	if err := replaceFile(c.path(key, ".json"), text); err != nil {
		return Archive{}, fmt.Errorf("keep image: %w", err)
	}
	kept, err := openArchive(path, Bounds{}.filled(), false)
	kept.Source, kept.Reference, kept.remote, kept.Unpacked = a.Source, a.Reference, a.remote, a.Unpacked
	return kept, err
}

// writeArchive writes the normal form to path and returns the file's digest.
// The file is there whole or not at all.
func writeArchive(ctx context.Context, path string, a Archive) (string, error) {
	reader, err := a.Reader()
	if err != nil {
		return "", err
	}
	defer reader.Close()
	file, err := os.CreateTemp(filepath.Dir(path), stagePrefix(strings.TrimSuffix(filepath.Base(path), ".tar")))
	if err != nil {
		return "", err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, hash), &contextReader{ctx: ctx, r: reader}); err != nil {
		return "", err
	}
	if err := errors.Join(file.Chmod(0o644), file.Sync(), file.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), os.Rename(file.Name(), path)
}

func replaceFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readEntry(path string) (entry, error) {
	var e entry
	text, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(text, &e)
}

func sumFile(path string) (sum string, size int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	hash := sha256.New()
	size, err = io.Copy(hash, file)
	return hex.EncodeToString(hash.Sum(nil)), size, err
}

// contextReader ends with its context. It lives for one copy.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
