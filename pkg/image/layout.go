package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Images are for this platform only.
const (
	architecture = "amd64"
	system       = "linux"
)

// Platform is what images must be for, as written by registries.
const Platform = system + "/" + architecture

// epoch is the one time that is written into what Sandlot makes.
func epoch() time.Time { return time.Unix(1704067200, 0).UTC() }

// assemble makes an archive of a manifest, its configuration, and the parts
// that hold its layers, by digest.
func assemble(manifest, config []byte, layers map[digest.Digest]part) (Archive, error) {
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return Archive{}, fmt.Errorf("manifest: %w", err)
	}
	var c v1.Image
	if err := json.Unmarshal(config, &c); err != nil {
		return Archive{}, fmt.Errorf("configuration: %w", err)
	}
	if m.MediaType == "" { // OCI allows it in a manifest, not in an index
		m.MediaType = v1.MediaTypeImageManifest
	}
	name := digest.FromBytes(manifest)
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: m.MediaType, Digest: name, Size: int64(len(manifest)),
			Platform: &v1.Platform{Architecture: architecture, OS: system},
		}},
	})
	if err != nil {
		return Archive{}, fmt.Errorf("index: %w", err)
	}
	parts := []part{
		dataPart(v1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+v1.ImageLayoutVersion+`"}`)),
		dataPart(v1.ImageIndexFile, index),
		dataPart(blobName(name), manifest),
		dataPart(blobName(digest.FromBytes(config)), config),
	}
	for _, d := range slices.Sorted(maps.Keys(layers)) {
		p := layers[d]
		p.name = blobName(d)
		parts = append(parts, p)
	}
	return Archive{
		Digest: name.String(),
		Size:   streamSize(parts),
		Config: Config{
			Env: c.Config.Env, WorkingDir: c.Config.WorkingDir, Entrypoint: c.Config.Entrypoint,
			Cmd: c.Config.Cmd, User: c.Config.User, Labels: c.Config.Labels,
		},
		parts: parts,
	}, nil
}

func dataPart(name string, data []byte) part {
	return part{name: name, data: data, size: int64(len(data))}
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// manifestOf writes a manifest; its fields have one order, so that equal
// content has one digest.
func manifestOf(config []byte, layers []v1.Descriptor, annotations map[string]string) ([]byte, error) {
	return json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{
			MediaType: v1.MediaTypeImageConfig,
			Digest:    digest.FromBytes(config), Size: int64(len(config)),
		},
		Layers:      layers,
		Annotations: annotations,
	})
}
