package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// members are the files in a tar file, by cleaned name.
type members map[string]part

// maxMembers bounds the number of files in an archive.
const maxMembers = 4096

// scan finds the members of a tar file without reading them.
func scan(file *os.File, path string, bounds Bounds) (members, error) {
	if err := checkForm(file); err != nil {
		return nil, err
	}
	found, links := members{}, map[string]string{}
	var total int64
	reader := tar.NewReader(file)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read tar file: %w", err)
		}
		name := cleanName(h.Name)
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		case tar.TypeSymlink, tar.TypeLink:
			links[name] = linkTarget(name, h)
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("%q is neither a file nor a directory", h.Name)
		}
		// The reader reads no further than the header.
		offset, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("read tar file: %w", err)
		}
		if _, twice := found[name]; twice {
			return nil, fmt.Errorf("%q is there twice", h.Name)
		}
		if isSparse(h) {
			return nil, fmt.Errorf("%q is a sparse file", h.Name)
		}
		if total += h.Size; total > bounds.Archive || h.Size < 0 {
			return nil, fmt.Errorf("the files in it are larger than %d bytes", bounds.Archive)
		}
		if len(found)+len(links) >= maxMembers {
			return nil, fmt.Errorf("it holds more than %d files", maxMembers)
		}
		found[name] = part{name: name, file: path, offset: offset, size: h.Size}
	}
	// Older `docker save` writes a layer that is there already as a link.
	for name, target := range links {
		if p, ok := found[target]; ok {
			found[name] = p
		}
	}
	return found, nil
}

func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Format == tar.FormatGNU && h.Typeflag == tar.TypeGNUSparse
}

func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func linkTarget(name string, h *tar.Header) string {
	if h.Typeflag == tar.TypeLink {
		return cleanName(h.Linkname)
	}
	return cleanName(path.Join(path.Dir(name), h.Linkname))
}

// checkForm tells compressed files apart, for a helpful error.
func checkForm(file *os.File) error {
	head := make([]byte, 6)
	n, err := io.ReadFull(file, head)
	if err != nil {
		return errors.New("not an image archive: the file is too short")
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read image archive: %w", err)
	}
	for magic, tool := range map[string]string{"\x1f\x8b": "gunzip", "\x28\xb5\x2f\xfd": "unzstd", "BZh": "bunzip2", "\xfd7zXZ\x00": "unxz"} {
		if bytes.HasPrefix(head[:n], []byte(magic)) {
			return fmt.Errorf("the archive is compressed: unpack it with %s first", tool)
		}
	}
	return nil
}

// read returns the whole of a document.
func (m members) read(name string) ([]byte, error) {
	p, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("%s is missing", name)
	}
	if p.size > maxDocument {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, p.size, maxDocument)
	}
	reader, err := p.open()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	data := make([]byte, p.size)
	if _, err := io.ReadFull(reader, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// open reads the part's contents.
func (p part) open() (io.ReadCloser, error) {
	if p.file == "" {
		return io.NopCloser(bytes.NewReader(p.data)), nil
	}
	file, err := os.Open(p.file)
	if err != nil {
		return nil, err
	}
	section := &exactReader{r: io.NewSectionReader(file, p.offset, p.size), left: p.size}
	return struct {
		io.Reader
		io.Closer
	}{section, file}, nil
}
