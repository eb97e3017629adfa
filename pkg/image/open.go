package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds are the sizes up to which an archive from elsewhere is taken.
type Bounds struct {
	// Archive is the whole file, Unpacked what all layers hold; in bytes.
	Archive  int64
	Unpacked int64
	// Files and Layers are numbers.
	Files  int64
	Layers int
}

// filled is b with every zero replaced by its default.
func (b Bounds) filled() Bounds {
	d := Bounds{Archive: 8 << 30, Unpacked: 16 << 30, Files: 1 << 20, Layers: 127}
	if b.Archive == 0 {
		b.Archive = d.Archive
	}
	if b.Unpacked == 0 {
		b.Unpacked = d.Unpacked
	}
	if b.Files == 0 {
		b.Files = d.Files
	}
	if b.Layers == 0 {
		b.Layers = d.Layers
	}
	return b
}

// maxDocument bounds an index, a manifest or a configuration.
const maxDocument = 4 << 20

// Open checks an archive from anywhere, an OCI layout or the output of
// `docker save`, and makes it one that Sandlot can use: exactly one image for
// linux/amd64, every digest as its content, sizes within the default bounds.
// Nothing is written; the file must stay as it is while the Archive is used.
func Open(path string) (Archive, error) { return OpenWithin(path, Bounds{}) }

// OpenWithin is Open with other bounds.
func OpenWithin(path string, bounds Bounds) (Archive, error) {
	archive, err := openArchive(path, bounds.filled(), true)
	if err != nil {
		return Archive{}, fmt.Errorf("open image archive %s: %w", path, err)
	}
	return archive, nil
}

// openArchive reads what the archive says of itself; deep reads its layers
// too and adds the mount points that they lack.
func openArchive(path string, bounds Bounds, deep bool) (Archive, error) {
	file, err := os.Open(path)
	if err != nil {
		return Archive{}, err
	}
	defer file.Close()
	found, err := scan(file, path, bounds)
	if err != nil {
		return Archive{}, err
	}
	var image contents
	switch {
	case found.has(v1.ImageIndexFile):
		image, err = findInLayout(found, bounds)
	case found.has("manifest.json"):
		image, err = findInDocker(found, bounds)
	default:
		err = errors.New("it holds neither index.json (OCI layout) nor manifest.json (docker save)")
	}
	if err != nil {
		return Archive{}, err
	}
	archive, err := image.archive(bounds, deep)
	archive.Path = path
	return archive, err
}

func (m members) has(name string) bool { _, ok := m[name]; return ok }

// contents is the one image of an archive.
type contents struct {
	// manifest is nil where the archive has none: `docker save`.
	manifest []byte
	config   []byte
	layers   []layerRef
}

// layerRef is a layer and where it lies.
type layerRef struct {
	descriptor v1.Descriptor // without digest where the archive has none
	part       part
}

// archive checks the configuration and the layers, and puts the archive
// together.
func (f contents) archive(bounds Bounds, deep bool) (Archive, error) {
	config, err := checkConfig(f.config, len(f.layers), bounds)
	if err != nil {
		return Archive{}, err
	}
	parts := map[digest.Digest]part{}
	if !deep {
		for _, l := range f.layers {
			parts[l.descriptor.Digest] = l.part
		}
		return assemble(f.manifest, f.config, parts)
	}
	places, left := newMountPlaces(), bounds
	for i := range f.layers {
		facts, err := f.layers[i].check(left, places, config.RootFS.DiffIDs[i])
		if err != nil {
			return Archive{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
		left.Unpacked -= facts.unpacked
		left.Files -= facts.files
		parts[f.layers[i].descriptor.Digest] = f.layers[i].part
	}
	archive, err := f.finish(parts, places.missing())
	archive.Unpacked = bounds.Unpacked - left.Unpacked
	return archive, err
}

// check reads the layer and compares it with what was said of it.
func (l *layerRef) check(left Bounds, places *mountPlaces, diff digest.Digest) (layerFacts, error) {
	blob, err := l.part.open()
	if err != nil {
		return layerFacts{}, err
	}
	defer blob.Close()
	facts, err := inspect(blob, left, places)
	if err != nil {
		return layerFacts{}, err
	}
	if l.descriptor.Digest == "" {
		l.descriptor = v1.Descriptor{MediaType: layerType(facts.compression), Digest: facts.blob, Size: l.part.size}
	}
	if facts.blob != l.descriptor.Digest {
		return layerFacts{}, fmt.Errorf("its content has digest %s, not %s", facts.blob, l.descriptor.Digest)
	}
	if facts.diff != diff {
		return layerFacts{}, fmt.Errorf("it unpacks to digest %s, the configuration says %s", facts.diff, diff)
	}
	if want := layerType(facts.compression); ociLayerType(l.descriptor.MediaType) != want {
		return layerFacts{}, fmt.Errorf("it is called %s but is %s", l.descriptor.MediaType, want)
	}
	return facts, nil
}

// checkConfig wants a configuration that containerd takes for this platform.
func checkConfig(data []byte, layers int, bounds Bounds) (v1.Image, error) {
	var c v1.Image
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	switch {
	case c.Architecture == "" || c.OS == "":
		return c, errors.New("the configuration lacks architecture or os")
	case c.Architecture != architecture || c.OS != system:
		return c, fmt.Errorf("the image is for %s/%s, not for %s", c.OS, c.Architecture, Platform)
	case layers == 0:
		return c, errors.New("the image has no layers")
	case layers > bounds.Layers:
		return c, fmt.Errorf("the image has %d layers, more than %d", layers, bounds.Layers)
	case len(c.RootFS.DiffIDs) != layers:
		return c, fmt.Errorf("the configuration names %d layers, the manifest %d", len(c.RootFS.DiffIDs), layers)
	}
	for _, kv := range c.Config.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.ContainsRune(kv, 0) {
			return c, fmt.Errorf("the configuration's environment has %q, which is not NAME=value", kv)
		}
	}
	return c, nil
}

// finish writes the manifest where there is none, and adds a layer with the
// mount points that are missing.
func (f contents) finish(parts map[digest.Digest]part, missing []mountPoint) (Archive, error) {
	source := ""
	if f.manifest != nil {
		source = digest.FromBytes(f.manifest).String()
	}
	config, manifest := f.config, f.manifest
	layers := make([]v1.Descriptor, 0, len(f.layers)+1)
	for _, l := range f.layers {
		layers = append(layers, v1.Descriptor{
			MediaType: ociLayerType(l.descriptor.MediaType), Digest: l.descriptor.Digest, Size: l.descriptor.Size,
		})
	}
	if len(missing) > 0 {
		var blob bytes.Buffer
		extra, err := packMountPoints(&blob, missing)
		if err != nil {
			return Archive{}, err
		}
		parts[extra.descriptor.Digest] = dataPart("", blob.Bytes())
		layers = append(layers, extra.descriptor)
		if config, err = addLayer(f.config, extra.diff); err != nil {
			return Archive{}, err
		}
		manifest = nil
	}
	if manifest == nil {
		var err error
		if manifest, err = manifestOf(config, layers, nil); err != nil {
			return Archive{}, fmt.Errorf("write manifest: %w", err)
		}
	}
	archive, err := assemble(manifest, config, parts)
	if source != archive.Digest {
		archive.Source = source
	}
	return archive, err
}
