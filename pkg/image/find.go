package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's names for what OCI has too.
const (
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGz  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

func layerType(compression string) string {
	if compression == "" {
		return v1.MediaTypeImageLayer
	}
	return v1.MediaTypeImageLayer + "+" + compression
}

// ociLayerType is OCI's name for a type of layer; "" for one that is refused.
func ociLayerType(mediaType string) string {
	switch mediaType {
	case dockerLayer, v1.MediaTypeImageLayer:
		return v1.MediaTypeImageLayer
	case dockerLayerGz, v1.MediaTypeImageLayerGzip:
		return v1.MediaTypeImageLayerGzip
	case v1.MediaTypeImageLayerZstd:
		return v1.MediaTypeImageLayerZstd
	}
	return ""
}

// findInLayout finds the image in an OCI layout.
func findInLayout(m members, bounds Bounds) (contents, error) {
	var layout v1.ImageLayout
	if err := m.document(v1.ImageLayoutFile, &layout); err != nil {
		return contents{}, err
	}
	if layout.Version != v1.ImageLayoutVersion {
		return contents{}, fmt.Errorf("%s has version %q, not %s", v1.ImageLayoutFile, layout.Version, v1.ImageLayoutVersion)
	}
	var index v1.Index
	if err := m.document(v1.ImageIndexFile, &index); err != nil {
		return contents{}, err
	}
	search := layoutSearch{members: m, found: map[digest.Digest]v1.Manifest{}, others: map[string]bool{}}
	if err := search.index(index, 0); err != nil {
		return contents{}, err
	}
	switch len(search.found) {
	case 1:
	case 0:
		if len(search.others) > 0 {
			others := slices.Sorted(maps.Keys(search.others))
			return contents{}, fmt.Errorf("it has no image for %s, only for %s", Platform, strings.Join(others, ", "))
		}
		return contents{}, errors.New("it has no image")
	default:
		return contents{}, fmt.Errorf("it has %d images for %s, there must be one", len(search.found), Platform)
	}
	for d, manifest := range search.found {
		return m.image(d, manifest, bounds)
	}
	panic("unreachable")
}

func (m members) document(name string, into any) error {
	data, err := m.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// layoutSearch goes through nested indexes.
type layoutSearch struct {
	members members
	found   map[digest.Digest]v1.Manifest
	others  map[string]bool
	visited int
}

// Bounds of nesting and of the number of descriptors: an index may name
// itself, or one manifest a million times.
const (
	maxDepth       = 3
	maxDescriptors = 256
)

func (s *layoutSearch) index(index v1.Index, depth int) error {
	if depth > maxDepth {
		return errors.New("its indexes are nested too deep")
	}
	for _, d := range index.Manifests {
		if s.visited++; s.visited > maxDescriptors {
			return fmt.Errorf("its indexes name more than %d manifests", maxDescriptors)
		}
		if err := s.descriptor(d, depth); err != nil {
			return err
		}
	}
	return nil
}

func (s *layoutSearch) descriptor(d v1.Descriptor, depth int) error {
	if p := d.Platform; p != nil && (p.OS != system || p.Architecture != architecture) {
		if p.OS != "unknown" { // attestations stand beside images
			s.others[p.OS+"/"+p.Architecture] = true
		}
		return nil
	}
	switch d.MediaType {
	case v1.MediaTypeImageIndex, dockerIndex:
		var nested v1.Index
		if err := s.members.blob(d, &nested); err != nil {
			return err
		}
		return s.index(nested, depth+1)
	case v1.MediaTypeImageManifest, dockerManifest:
		return s.manifest(d)
	}
	return nil // something that is no image
}

func (s *layoutSearch) manifest(d v1.Descriptor) error {
	var manifest v1.Manifest
	if err := s.members.blob(d, &manifest); err != nil {
		return err
	}
	if t := manifest.Config.MediaType; t != v1.MediaTypeImageConfig && t != dockerConfig {
		return nil // an artifact in a manifest
	}
	var p v1.Platform
	if err := s.members.blob(manifest.Config, &p); err != nil {
		return err
	}
	if p.OS != "" && p.Architecture != "" && (p.OS != system || p.Architecture != architecture) {
		s.others[p.OS+"/"+p.Architecture] = true
		return nil
	}
	s.found[d.Digest] = manifest
	return nil
}

// blob reads a document that a descriptor names, and checks it.
func (m members) blob(d v1.Descriptor, into any) error {
	data, err := m.checked(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	return nil
}

func (m members) checked(d v1.Descriptor) ([]byte, error) {
	if _, err := m.locate(d); err != nil {
		return nil, err
	}
	data, err := m.read(blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(data); got != d.Digest {
		return nil, fmt.Errorf("a document has digest %s, not %s", got, d.Digest)
	}
	return data, nil
}

// locate finds the member that a descriptor names, with the size it names.
func (m members) locate(d v1.Descriptor) (part, error) {
	if err := d.Digest.Validate(); err != nil {
		return part{}, fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	if d.Digest.Algorithm() != digest.SHA256 {
		return part{}, fmt.Errorf("digest %q: only sha256 is supported", d.Digest)
	}
	p, ok := m[blobName(d.Digest)]
	if !ok {
		return part{}, fmt.Errorf("%s is missing", d.Digest)
	}
	if p.size != d.Size {
		return part{}, fmt.Errorf("%s has %d bytes, its descriptor says %d", d.Digest, p.size, d.Size)
	}
	return p, nil
}

// image collects the configuration and the layers of a manifest.
func (m members) image(name digest.Digest, manifest v1.Manifest, bounds Bounds) (contents, error) {
	raw, err := m.read(blobName(name))
	if err != nil {
		return contents{}, err
	}
	f := contents{manifest: raw}
	if f.config, err = m.checked(manifest.Config); err != nil {
		return contents{}, fmt.Errorf("configuration: %w", err)
	}
	if len(manifest.Layers) > bounds.Layers {
		return contents{}, fmt.Errorf("the image has %d layers, more than %d", len(manifest.Layers), bounds.Layers)
	}
	for i, d := range manifest.Layers {
		if ociLayerType(d.MediaType) == "" || len(d.URLs) > 0 {
			return contents{}, fmt.Errorf("layer %d is of type %q, which is not supported", i+1, d.MediaType)
		}
		p, err := m.locate(d)
		if err != nil {
			return contents{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
		f.layers = append(f.layers, layerRef{descriptor: d, part: p})
	}
	return f, nil
}

// findInDocker finds the image in the output of an older `docker save`.
func findInDocker(m members, bounds Bounds) (contents, error) {
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := m.document("manifest.json", &images); err != nil {
		return contents{}, err
	}
	if len(images) != 1 {
		return contents{}, fmt.Errorf("it has %d images, there must be one", len(images))
	}
	config, err := m.read(cleanName(images[0].Config))
	if err != nil {
		return contents{}, fmt.Errorf("configuration: %w", err)
	}
	if len(images[0].Layers) > bounds.Layers {
		return contents{}, fmt.Errorf("the image has %d layers, more than %d", len(images[0].Layers), bounds.Layers)
	}
	f := contents{config: config}
	for i, name := range images[0].Layers {
		p, ok := m[cleanName(name)]
		if !ok {
			return contents{}, fmt.Errorf("layer %d: %s is missing", i+1, name)
		}
		f.layers = append(f.layers, layerRef{part: p})
	}
	return f, nil
}
