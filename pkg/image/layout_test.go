package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// draft is an OCI layout that a test spoils before it is written.
type draft struct {
	t        *testing.T
	layers   [][]byte // as stored
	types    []string
	config   v1.Image
	manifest v1.Manifest
	index    v1.Index
	blobs    map[string][]byte // by member name
	extra    []member
}

type member struct {
	header tar.Header
	data   []byte
}

// newDraft is a right image with the given layers, which are gzip-compressed.
func newDraft(t *testing.T, layers ...[]byte) *draft {
	t.Helper()
	d := &draft{t: t, blobs: map[string][]byte{}}
	d.config = v1.Image{
		Platform: v1.Platform{Architecture: "amd64", OS: "linux"},
		Config:   v1.ImageConfig{Env: []string{"A=b"}, User: "7"},
		RootFS:   v1.RootFS{Type: "layers"},
	}
	for _, layer := range layers {
		d.config.RootFS.DiffIDs = append(d.config.RootFS.DiffIDs, digest.FromBytes(layer))
		d.layers = append(d.layers, compress(t, layer))
		d.types = append(d.types, v1.MediaTypeImageLayerGzip)
	}
	return d
}

// link makes manifest and index fit the configuration and the layers.
func (d *draft) link() *draft {
	config := d.json(d.config)
	d.manifest = v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: d.put(v1.MediaTypeImageConfig, config),
	}
	for i, layer := range d.layers {
		d.manifest.Layers = append(d.manifest.Layers, d.put(d.types[i], layer))
	}
	return d.linkManifest()
}

func (d *draft) linkManifest() *draft {
	d.index = v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{d.put(v1.MediaTypeImageManifest, d.json(d.manifest))},
	}
	return d
}

func (d *draft) json(value any) []byte {
	d.t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}

// put stores a blob under its digest.
func (d *draft) put(mediaType string, data []byte) v1.Descriptor {
	sum := digest.FromBytes(data)
	d.blobs["blobs/sha256/"+sum.Encoded()] = data
	return v1.Descriptor{MediaType: mediaType, Digest: sum, Size: int64(len(data))}
}

// write writes the archive; files given replace those of the layout, nil
// removes one.
func (d *draft) write(files map[string][]byte) string {
	d.t.Helper()
	all := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": d.json(d.index)}
	for name, data := range d.blobs {
		all[name] = data
	}
	for name, data := range files {
		all[name] = data
		if data == nil {
			delete(all, name)
		}
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		data := all[name]
		add(d.t, w, tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data))}, data)
	}
	for _, m := range d.extra {
		add(d.t, w, m.header, m.data)
	}
	if err := w.Close(); err != nil {
		d.t.Fatal(err)
	}
	return writeFile(d.t, buf.Bytes())
}

func add(t *testing.T, w *tar.Writer, h tar.Header, data []byte) {
	t.Helper()
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// layer is a tar file with the given entries: "dir/" is a directory, else a
// small file.
func layer(t *testing.T, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: 1}
		data := []byte{'x'}
		if name[len(name)-1] == '/' {
			h.Typeflag, h.Size, data = tar.TypeDir, 0, nil
		}
		add(t, w, h, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compress(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
