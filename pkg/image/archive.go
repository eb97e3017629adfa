package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Archive is an image in a file, checked and ready to be imported.
type Archive struct {
	// Path is the file that was opened, pulled or built.
	Path string
	// Digest is that of the image's manifest, "sha256:…".
	Digest string
	// Source is the manifest's digest as it was found, where it differs: an
	// image from elsewhere gets a layer with mount points.
	Source string
	// Reference is what the image was pulled from; empty when it was not.
	Reference string
	// Size is how many bytes Reader gives, Unpacked what the layers hold.
	Size     int64
	Unpacked int64
	Config   Config

	// remote is the digest that the registry has under Reference.
	remote string
	parts  []part
}

// Config is what an image says of how it is run.
type Config struct {
	Env        []string
	WorkingDir string
	Entrypoint []string
	Cmd        []string
	User       string
	Labels     map[string]string
}

// part is one file of the archive: data, or a piece of another file.
type part struct {
	name   string
	data   []byte
	file   string
	offset int64
	size   int64
}

const block = 512

// Reader gives the archive in its normal form, an OCI layout in a tar file,
// whatever the form of the file behind it. Equal digests give equal bytes.
func (a Archive) Reader() (io.ReadCloser, error) {
	r := &archiveReader{files: map[string]*os.File{}}
	if err := r.chain(a.parts); err != nil {
		return nil, errors.Join(fmt.Errorf("read image archive: %w", err), r.Close())
	}
	return r, nil
}

type archiveReader struct {
	io.Reader
	files map[string]*os.File
}

// chain opens the parts and puts them one after the other.
func (r *archiveReader) chain(parts []part) error {
	var readers []io.Reader
	for _, p := range parts {
		head, err := header(p)
		if err != nil {
			return err
		}
		body, err := r.open(p)
		if err != nil {
			return err
		}
		readers = append(readers, bytes.NewReader(head), body, bytes.NewReader(make([]byte, padding(p.size))))
	}
	readers = append(readers, bytes.NewReader(make([]byte, 2*block)))
	r.Reader = io.MultiReader(readers...)
	return nil
}

func (r *archiveReader) open(p part) (io.Reader, error) {
	if p.file == "" {
		return bytes.NewReader(p.data), nil
	}
	file := r.files[p.file]
	if file == nil {
		var err error
		if file, err = os.Open(p.file); err != nil {
			return nil, err
		}
		r.files[p.file] = file
	}
	return &exactReader{r: io.NewSectionReader(file, p.offset, p.size), left: p.size}, nil
}

// Close closes the files behind the archive.
func (r *archiveReader) Close() error {
	for _, f := range r.files {
		f.Close()
	}
	return nil
}

// exactReader fails where its source ends early: a tar file with a member cut
// short would be read on as if nothing had happened.
type exactReader struct {
	r    io.Reader
	left int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// header is the tar header of a part: 512 bytes that depend on nothing else.
func header(p part) ([]byte, error) {
	var buf bytes.Buffer
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: p.name, Size: p.size, Mode: 0o644,
		ModTime: epoch(), Format: tar.FormatUSTAR,
	}
	if err := tar.NewWriter(&buf).WriteHeader(h); err != nil {
		return nil, fmt.Errorf("header of %s: %w", p.name, err)
	}
	return buf.Bytes(), nil
}

func padding(size int64) int64 { return -size & (block - 1) }

// streamSize is how long Reader's stream is.
func streamSize(parts []part) int64 {
	total := int64(2 * block)
	for _, p := range parts {
		total += block + p.size + padding(p.size)
	}
	return total
}
