package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// layerFacts are what reading a layer from end to end tells.
type layerFacts struct {
	// blob is the digest of the layer as it is stored, diff that of the tar
	// file in it.
	blob, diff digest.Digest
	// compression is "", "gzip" or "zstd".
	compression string
	// unpacked is the larger of the tar file and what its headers claim.
	unpacked int64
	files    int64
}

// inspect reads a layer once: digests, sizes, and what it does to the places
// where a sandbox mounts things. It stops at the bounds.
func inspect(blob io.Reader, left Bounds, places *mountPlaces) (layerFacts, error) {
	stored := sha256.New()
	raw := bufio.NewReaderSize(io.TeeReader(blob, stored), 1<<20)
	plain, compression, err := decompress(raw)
	if err != nil {
		return layerFacts{}, err
	}
	defer plain.Close()
	diff, size := sha256.New(), &counter{}
	bounded := &boundedReader{r: plain, left: left.Unpacked}
	facts := layerFacts{compression: compression}
	body := io.TeeReader(bounded, io.MultiWriter(diff, size))
	claimed, files, err := walkLayer(body, left, places)
	if err != nil {
		return layerFacts{}, err
	}
	// The end of the tar file is not that of the stream, nor that of the blob.
	if _, err := io.Copy(io.Discard, body); err != nil {
		return layerFacts{}, fmt.Errorf("read layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return layerFacts{}, fmt.Errorf("read layer: %w", err)
	}
	facts.blob = digest.NewDigest(digest.SHA256, stored)
	facts.diff = digest.NewDigest(digest.SHA256, diff)
	facts.unpacked, facts.files = max(size.n, claimed), files
	return facts, nil
}

// walkLayer goes through the headers of a layer.
func walkLayer(r io.Reader, left Bounds, places *mountPlaces) (claimed, files int64, err error) {
	reader := tar.NewReader(r)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return claimed, files, nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read layer: %w", err)
		}
		if files++; files > left.Files {
			return 0, 0, errors.New("the layers hold too many files")
		}
		// A sparse file claims more than the stream has.
		if claimed += h.Size; h.Size > left.Unpacked || claimed > left.Unpacked {
			return 0, 0, errUnpacked
		}
		places.see(h)
	}
}

var errUnpacked = errors.New("the layers unpack to too many bytes")

// boundedReader fails past its bound, which a bomb reaches.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errUnpacked
	}
	return n, err
}

// maxWindow bounds the memory of a decoder.
const maxWindow = 128 << 20

func decompress(r *bufio.Reader) (io.ReadCloser, string, error) {
	head, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", fmt.Errorf("read layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		plain, err := gzip.NewReader(r)
		if err != nil {
			return nil, "", fmt.Errorf("read layer: %w", err)
		}
		return plain, "gzip", nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		plain, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, "", fmt.Errorf("read layer: %w", err)
		}
		return plain.IOReadCloser(), "zstd", nil
	}
	return io.NopCloser(r), "", nil
}

// mountPlaces follows, layer by layer, which mount points an image has.
type mountPlaces struct {
	dirs map[string]bool
}

func newMountPlaces() *mountPlaces { return &mountPlaces{dirs: map[string]bool{}} }

func (m *mountPlaces) see(h *tar.Header) {
	name := cleanName(h.Name)
	dir, base := path.Split(name)
	switch {
	case base == ".wh..wh..opq":
		m.remove(strings.TrimSuffix(dir, "/"), false)
	case strings.HasPrefix(base, ".wh."):
		m.remove(dir+strings.TrimPrefix(base, ".wh."), true)
	case h.Typeflag == tar.TypeDir:
		m.dirs[name] = true
	default:
		m.remove(name, true)
	}
	// see is asked for every file of an image; only a dozen names matter.
	if !isMountPoint(name) {
		delete(m.dirs, name)
	}
}

// remove forgets what lies below name, and name too if itself.
func (m *mountPlaces) remove(name string, itself bool) {
	for d := range m.dirs {
		if itself && d == name || name == "" || strings.HasPrefix(d, name+"/") {
			delete(m.dirs, d)
		}
	}
}

func isMountPoint(name string) bool {
	for _, m := range mountPoints() {
		if m.path == name {
			return true
		}
	}
	return false
}

// missing are the mount points that the image does not have.
func (m *mountPlaces) missing() []mountPoint {
	var missing []mountPoint
	for _, p := range mountPoints() {
		if !m.dirs[p.path] {
			missing = append(missing, p)
		}
	}
	return missing
}
