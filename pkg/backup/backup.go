// Package backup is the file that holds all state of a system: a tar whose
// entries each carry the SHA-256 of their content, closed by one that counts
// them all, so that what is damaged or cut off is known as such.
//
//	header.json                what it is, and who wrote it
//	objects/<bucket>/<name>    images, inputs, outputs; names in base64
//	settings/<n>.jsonl.gz      keys of CFG
//	records/<n>.jsonl.gz       a record per line; of two with one ID the later counts
//	batches/<n>.jsonl.gz       a batch per line
//	end.json                   counts, and a digest of all digests
//
// The order is that in which a system is filled: nothing refers to what comes
// later.
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
	"time"
)

// Version is that of the format.
const Version = 1

// ErrDamaged is of a file that is not a backup, or not a whole one.
var ErrDamaged = errors.New("backup is damaged")

// ErrFormat is of a backup that another release is needed for.
var ErrFormat = errors.New("backup is of another release")

// Kinds of entries that hold lines.
const (
	Settings = "settings"
	Records  = "records"
	Batches  = "batches"
)

const (
	headerName, endName = "header.json", "end.json"
	objectKind          = "objects"
	sumRecord           = "SANDLOT.sha256"
	format              = "sandlot backup"
	// chunk is how many bytes of lines make an entry; maxChunk what a reader
	// takes for one.
	chunk, maxChunk = 1 << 20, 16 << 20
)

// Header says what a backup is.
type Header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// ID tells backups apart.
	ID string `json:"id"`
	// Schema is that of what is inside, Layout that of the streams.
	Schema    int       `json:"schema"`
	Layout    string    `json:"layout"`
	CreatedAt time.Time `json:"created_at"`
	// Sandlot is the release that wrote it.
	Sandlot string `json:"sandlot,omitempty"`
}

// Counts is how much a backup holds.
type Counts struct {
	Settings int   `json:"settings"`
	Records  int   `json:"records"`
	Batches  int   `json:"batches"`
	Objects  int   `json:"objects"`
	Bytes    int64 `json:"bytes"` // of objects
}

func (c *Counts) lines(kind string, n int) {
	switch kind {
	case Settings:
		c.Settings += n
	case Records:
		c.Records += n
	case Batches:
		c.Batches += n
	}
}

// Object is a stored object.
type Object struct {
	Bucket, Name string
	Size         int64
	SHA256       string // hex
}

// end closes a backup.
type end struct {
	Counts
	Digest string `json:"digest"`
}

// Writer writes a backup.
type Writer struct {
	tar    *tar.Writer
	sums   hash.Hash // of all entries
	counts Counts
	kind   string
	lines  bytes.Buffer
	held   int
	number int
}

// NewWriter begins a backup.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	b := &Writer{tar: tar.NewWriter(w), sums: sha256.New()}
	h.Format, h.Version = format, Version
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("write backup: %w", err)
	}
	return b, b.entry(headerName, data)
}

// Counts is how much is written so far.
func (b *Writer) Counts() Counts { return b.counts }

func (b *Writer) entry(name string, data []byte) error {
	sum := sha256.Sum256(data)
	return b.stream(name, hex.EncodeToString(sum[:]), int64(len(data)), bytes.NewReader(data))
}

func (b *Writer) stream(name, sum string, size int64, r io.Reader) error {
	h := &tar.Header{Name: name, Mode: 0o600, Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{sumRecord: sum}}
	if err := b.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := io.Copy(b.tar, r); err != nil {
		return fmt.Errorf("write backup: %s: %w", name, err)
	}
	fmt.Fprintln(b.sums, name, sum)
	return nil
}

// Line adds a line of a kind. It must hold no line break.
func (b *Writer) Line(kind string, line []byte) error {
	if b.kind != kind || b.lines.Len()+len(line) > chunk {
		if err := b.flush(); err != nil {
			return err
		}
		b.kind = kind
	}
	b.lines.Write(line)
	b.lines.WriteByte('\n')
	b.held++
	b.counts.lines(kind, 1)
	return nil
}

// flush writes the lines that are held as an entry.
func (b *Writer) flush() error {
	if b.held == 0 {
		return nil
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(b.lines.Bytes())
	if err = errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	b.number++
	name := fmt.Sprintf("%s/%06d.jsonl.gz", b.kind, b.number)
	b.lines.Reset()
	b.held = 0
	return b.entry(name, packed.Bytes())
}

// Object adds an object. The reader must give what o says, or fail.
func (b *Writer) Object(o Object, r io.Reader) error {
	if err := b.flush(); err != nil {
		return err
	}
	name := objectKind + "/" + o.Bucket + "/" + base64.RawURLEncoding.EncodeToString([]byte(o.Name))
	if err := b.stream(name, o.SHA256, o.Size, r); err != nil {
		return err
	}
	b.counts.Objects++
	b.counts.Bytes += o.Size
	return nil
}

// Close ends the backup. Without it the backup counts as cut off.
func (b *Writer) Close() error {
	if err := b.flush(); err != nil {
		return err
	}
	data, err := json.Marshal(end{b.counts, hex.EncodeToString(b.sums.Sum(nil))})
	if err == nil {
		err = b.entry(endName, data)
	}
	if err == nil {
		err = b.tar.Close()
	}
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}
