package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pull copies an image for linux/amd64 from a registry into the file dst. The
// file is there whole or not at all. Credentials are Docker's, if any.
func (b Builder) Pull(ctx context.Context, reference, dst string) (Archive, error) {
	archive, err := b.pullTo(ctx, reference, dst)
	if err != nil {
		return Archive{}, fmt.Errorf("pull image %s: %w", reference, err)
	}
	return archive, nil
}

func (b Builder) pullTo(ctx context.Context, reference, dst string) (Archive, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return Archive{}, err
	}
	stage, err := os.MkdirTemp(filepath.Dir(dst), stagePrefix("pull"))
	if err != nil {
		return Archive{}, err
	}
	defer os.RemoveAll(stage)
	pulled, err := pull(ctx, ref, stage, b.reporter(reference))
	if err != nil {
		return Archive{}, err
	}
	if _, err := writeArchive(ctx, dst, pulled); err != nil {
		return Archive{}, err
	}
	archive, err := openArchive(dst, Bounds{}.filled(), false)
	archive.Source, archive.Reference, archive.Unpacked = pulled.Source, pulled.Reference, pulled.Unpacked
	return archive, err
}

// options are those of every request. One try: who asks again knows better
// how long it is worth to.
func options(ctx context.Context) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: system, Architecture: architecture}),
		remote.WithUserAgent("sandlot"),
	}
}

// ask returns the digest that the registry has under a reference.
func (b Builder) ask(ctx context.Context, ref name.Reference) (string, error) {
	patience := b.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	found, err := remote.Head(ref, options(ctx)...)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return "", cause
	}
	if err != nil {
		return "", err
	}
	return found.Digest.String(), nil
}

// pull copies the layers into stage and checks them.
func pull(ctx context.Context, ref name.Reference, stage string, report reporter) (Archive, error) {
	report.say(StagePull, ref.Name())
	found, err := remote.Get(ref, options(ctx)...)
	if err != nil {
		return Archive{}, err
	}
	image, err := found.Image()
	if err != nil {
		return Archive{}, err
	}
	bounds := Bounds{}.filled()
	c, err := fetch(ctx, image, stage, bounds, report)
	if err != nil {
		return Archive{}, err
	}
	report.say(StageVerify, "")
	archive, err := c.archive(bounds, true)
	archive.Reference, archive.remote = ref.Name(), found.Digest.String()
	return archive, err
}

func fetch(ctx context.Context, image v1.Image, stage string, bounds Bounds, report reporter) (contents, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return contents{}, fmt.Errorf("manifest: %w", err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return contents{}, fmt.Errorf("configuration: %w", err)
	}
	if len(manifest) > maxDocument || len(config) > maxDocument {
		return contents{}, fmt.Errorf("manifest or configuration has more than %d bytes", maxDocument)
	}
	layers, err := image.Layers()
	if err != nil {
		return contents{}, fmt.Errorf("layers: %w", err)
	}
	c := contents{manifest: manifest, config: config}
	// Who is refused for its configuration need not be fetched.
	if _, err := checkConfig(config, len(layers), bounds); err != nil {
		return contents{}, err
	}
	var total int64
	for i, layer := range layers {
		l, err := describe(layer)
		if err != nil {
			return contents{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if total += l.descriptor.Size; l.descriptor.Size < 0 || total > bounds.Archive {
			return contents{}, fmt.Errorf("the layers are larger than %d bytes", bounds.Archive)
		}
		l.part = part{file: filepath.Join(stage, l.descriptor.Digest.Encoded()), size: l.descriptor.Size}
		c.layers = append(c.layers, l)
	}
	progress := &pullProgress{report: report, total: total}
	for i, layer := range layers {
		if err := save(ctx, layer, c.layers[i].part, progress); err != nil {
			return contents{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return c, nil
}

func describe(layer v1.Layer) (layerRef, error) {
	hash, err := layer.Digest()
	if err != nil {
		return layerRef{}, err
	}
	size, err := layer.Size()
	if err != nil {
		return layerRef{}, err
	}
	mediaType, err := layer.MediaType()
	if err != nil {
		return layerRef{}, err
	}
	if ociLayerType(string(mediaType)) == "" {
		return layerRef{}, fmt.Errorf("type %q is not supported", mediaType)
	}
	d := digest.Digest(hash.String())
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return layerRef{}, fmt.Errorf("digest %q is not a sha256", d)
	}
	return layerRef{descriptor: oci.Descriptor{MediaType: string(mediaType), Digest: d, Size: size}}, nil
}

// save fetches one layer. The registry's client checks digest and size.
func save(ctx context.Context, layer v1.Layer, to part, progress *pullProgress) error {
	file, err := os.OpenFile(to.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil // one layer twice in an image
	}
	if err != nil {
		return err
	}
	defer file.Close()
	blob, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer blob.Close()
	n, err := io.Copy(io.MultiWriter(file, progress), &contextReader{ctx: ctx, r: blob})
	if err != nil {
		return err
	}
	if n != to.size {
		return fmt.Errorf("the registry sent %d bytes of %d", n, to.size)
	}
	return file.Close()
}

// pullProgress reports bytes as they are written.
type pullProgress struct {
	report            reporter
	done, told, total int64
}

func (p *pullProgress) Write(data []byte) (int, error) {
	if p.done += int64(len(data)); p.done-p.told >= progressStep || p.done == p.total {
		p.told = p.done
		p.report.count(StagePull, "", p.done, p.total)
	}
	return len(data), nil
}
