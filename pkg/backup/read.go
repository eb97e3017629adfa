package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Reader reads a backup, and checks it on the way.
type Reader struct {
	// Header is what the backup says of itself.
	Header Header

	tar    *tar.Reader
	sums   hash.Hash
	counts Counts
	now    *checked
}

// Entry is a part of a backup: lines of a kind, or an object.
type Entry struct {
	// Kind is that of Lines; empty for an object.
	Kind  string
	Lines [][]byte
	// Object is what Body holds. Body must be read to its end, where it fails
	// if it was damaged, before Next is called.
	Object Object
	Body   io.Reader
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrDamaged)
}

// NewReader reads the beginning of a backup.
func NewReader(r io.Reader) (*Reader, error) {
	b := &Reader{tar: tar.NewReader(r), sums: sha256.New()}
	name, data, err := b.whole()
	if err != nil {
		return nil, err
	}
	if name != headerName || json.Unmarshal(data, &b.Header) != nil || b.Header.Format != format {
		return nil, damaged("this is not a backup of Sandlot")
	}
	if b.Header.Version != Version {
		return nil, fmt.Errorf("it has format %d, this one reads %d: %w", b.Header.Version, Version, ErrFormat)
	}
	return b, nil
}

// Counts is how much was read so far.
func (b *Reader) Counts() Counts { return b.counts }

// open goes to the next entry.
func (b *Reader) open() (*tar.Header, error) {
	if b.now != nil {
		if _, err := io.Copy(io.Discard, b.now); err != nil {
			return nil, err
		}
	}
	h, err := b.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, damaged("it is cut off, its end is missing")
	case err != nil:
		return nil, damaged("%v", err)
	}
	sum := h.PAXRecords[sumRecord]
	b.now = &checked{r: b.tar, name: h.Name, want: sum, sum: sha256.New()}
	if h.Name != endName {
		fmt.Fprintln(b.sums, h.Name, sum)
	}
	return h, nil
}

// whole reads a small entry.
func (b *Reader) whole() (name string, data []byte, err error) {
	h, err := b.open()
	if err != nil {
		return "", nil, err
	}
	data, err = b.rest(h)
	return h.Name, data, err
}

func (b *Reader) rest(h *tar.Header) ([]byte, error) {
	if h.Size > maxChunk {
		return nil, damaged("entry %q has %d bytes", h.Name, h.Size)
	}
	return io.ReadAll(b.now)
}

// Next is the next part; io.EOF after the last, if all that was written is
// there.
func (b *Reader) Next() (Entry, error) {
	h, err := b.open()
	if err != nil {
		return Entry{}, err
	}
	kind, name, _ := strings.Cut(h.Name, "/")
	switch kind {
	case objectKind:
		return b.object(h, name)
	case Settings, Records, Batches:
		return b.lines(h, kind)
	case endName:
		return Entry{}, b.end(h)
	}
	return Entry{}, damaged("entry %q is not known", h.Name)
}

func (b *Reader) object(h *tar.Header, name string) (Entry, error) {
	bucket, coded, _ := strings.Cut(name, "/")
	decoded, err := base64.RawURLEncoding.DecodeString(coded)
	if err != nil || bucket == "" {
		return Entry{}, damaged("entry %q is no object", h.Name)
	}
	b.counts.Objects++
	b.counts.Bytes += h.Size
	return Entry{Object: Object{bucket, string(decoded), h.Size, b.now.want}, Body: b.now}, nil
}

func (b *Reader) lines(h *tar.Header, kind string) (Entry, error) {
	packed, err := b.rest(h)
	if err != nil {
		return Entry{}, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return Entry{}, damaged("entry %q: %v", h.Name, err)
	}
	data, err := io.ReadAll(io.LimitReader(z, maxChunk+1))
	if err != nil || len(data) > maxChunk || !bytes.HasSuffix(data, []byte("\n")) {
		return Entry{}, damaged("entry %q: %v", h.Name, err)
	}
	lines := bytes.Split(data[:len(data)-1], []byte("\n"))
	b.counts.lines(kind, len(lines))
	return Entry{Kind: kind, Lines: lines}, nil
}

// end compares what was read with what was written.
func (b *Reader) end(h *tar.Header) error {
	data, err := b.rest(h)
	if err != nil {
		return err
	}
	var e end
	if json.Unmarshal(data, &e) != nil || e.Counts != b.counts || e.Digest != hex.EncodeToString(b.sums.Sum(nil)) {
		return damaged("parts of it are missing or in another order")
	}
	return io.EOF
}

// checked compares the digest of what was read at its end.
type checked struct {
	r    io.Reader
	name string
	want string
	sum  hash.Hash
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	switch {
	case errors.Is(err, io.EOF):
		if hex.EncodeToString(c.sum.Sum(nil)) != c.want {
			return n, damaged("entry %q is not what was written", c.name)
		}
	case err != nil:
		return n, damaged("entry %q: %v", c.name, err)
	}
	return n, err
}

// Verify reads a backup to its end and says whether it is whole.
func Verify(r io.Reader) (Header, Counts, error) {
	b, err := NewReader(r)
	if err != nil {
		return Header{}, Counts{}, err
	}
	for {
		_, err := b.Next()
		if errors.Is(err, io.EOF) {
			return b.Header, b.counts, nil
		}
		if err != nil {
			return b.Header, b.counts, err
		}
	}
}
