package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// LabelPackages is the label of a built image that lists its packages as
// "name=version", sorted, with blanks between. It decides the image.
const LabelPackages = "dev.sandlot.packages"

// packed is a layer in a file.
type packed struct {
	file       string
	descriptor v1.Descriptor
	diff       digest.Digest
	unpacked   int64
}

// packTree writes the tree as a compressed layer.
func packTree(ctx context.Context, tree, path string, report reporter) (packed, error) {
	total, err := treeSize(tree)
	if err != nil {
		return packed{}, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	defer file.Close()
	layer, err := pack(file, func(w io.Writer) error {
		return writeTree(ctx, w, tree, func(done int64) { report.count(StagePack, "", done, total) })
	})
	if err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	layer.file = path
	return layer, file.Close()
}

// pack compresses what write writes. One encoder thread and a fixed level:
// equal trees must give equal bytes.
func pack(out io.Writer, write func(io.Writer) error) (packed, error) {
	whole, diff := sha256.New(), sha256.New()
	size, unpacked := &counter{}, &counter{}
	encoder, err := zstd.NewWriter(io.MultiWriter(out, whole, size),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return packed{}, err
	}
	if err := write(io.MultiWriter(encoder, diff, unpacked)); err != nil {
		return packed{}, err
	}
	if err := encoder.Close(); err != nil {
		return packed{}, err
	}
	return packed{
		descriptor: v1.Descriptor{
			MediaType: v1.MediaTypeImageLayerZstd,
			Digest:    digest.NewDigest(digest.SHA256, whole), Size: size.n,
		},
		diff:     digest.NewDigest(digest.SHA256, diff),
		unpacked: unpacked.n,
	}, nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// environment is that of a built image.
func environment(r Recipe) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG": "C.UTF-8",
	}
	maps.Copy(env, r.Env)
	lines := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, name+"="+env[name])
	}
	return lines
}

// buildArchive wraps the layer as an image.
func buildArchive(r Recipe, packages []string, layer packed) (Archive, error) {
	at := epoch()
	config, err := json.Marshal(v1.Image{
		Created:  &at,
		Platform: v1.Platform{Architecture: architecture, OS: system},
		Config: v1.ImageConfig{
			User: fmt.Sprintf("%d:%d", user, user), Env: environment(r), WorkingDir: "/work", Cmd: []string{"/bin/sh"},
			Labels: map[string]string{
				"org.opencontainers.image.title": r.Name,
				"dev.sandlot.suite":              r.Suite,
				LabelPackages:                    strings.Join(packages, " "),
			},
		},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.diff}},
		History: []v1.History{{Created: &at, CreatedBy: "sandlot image build " + r.Name}},
	})
	if err != nil {
		return Archive{}, fmt.Errorf("write image configuration: %w", err)
	}
	manifest, err := manifestOf(config, []v1.Descriptor{layer.descriptor}, nil)
	if err != nil {
		return Archive{}, fmt.Errorf("write image manifest: %w", err)
	}
	archive, err := assemble(manifest, config, map[digest.Digest]part{
		layer.descriptor.Digest: {file: layer.file, size: layer.descriptor.Size},
	})
	archive.Unpacked = layer.unpacked
	return archive, err
}

// digestOf is a hex digest of some texts, kept apart by their lengths.
func digestOf(texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		fmt.Fprintf(h, "%d:%s", len(t), t)
	}
	return hex.EncodeToString(h.Sum(nil))
}
