package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Builder makes archives and keeps them. Its fields are fixed once it is in
// use; several goroutines and processes may share a CacheDir.
type Builder struct {
	// CacheDir is where finished archives stay. Required.
	CacheDir string
	// Runsc is the program that runs a recipe's own steps in a sandbox.
	// Required for building.
	Runsc string
	// Catalogue is Builtin if left out.
	Catalogue *Catalogue
	// Source says where a catalogue name comes from; Auto if left out.
	Source Source
	// Install allows Prepare to install mmdebstrap where it is missing, on
	// Debian and as root.
	Install bool
	// Sources are lines as in apt's sources.list. If left out, the Debian
	// sources that the host's apt has for the suite, else Debian's own.
	Sources []string
	// Snapshot is a time as in 20260901T000000Z: packages as they were then,
	// from snapshot.debian.org. Optional; Sources is then not looked at.
	Snapshot string
	// Fresh builds and pulls anew what is in the cache.
	Fresh bool
	// Patience is how long a registry may take to answer before Auto builds
	// instead; 3 s if left out.
	Patience time.Duration
	// Progress is told what is being done, by one goroutine at a time.
	Progress func(Event)
	Logger   *slog.Logger
}

// Source says where catalogue images come from.
type Source string

// The sources of catalogue images.
const (
	Auto         Source = "auto"     // the registry if it answers, else packages
	FromRegistry Source = "registry" // pulled by reference
	FromPackages Source = "packages" // built from Debian's packages
)

// epochSeconds is epoch for programs that read SOURCE_DATE_EPOCH.
func epochSeconds() string { return fmt.Sprint(epoch().Unix()) }

func (b Builder) catalogue() Catalogue {
	if b.Catalogue != nil {
		return *b.Catalogue
	}
	return Builtin()
}

func (b Builder) logger() *slog.Logger {
	if b.Logger != nil {
		return b.Logger
	}
	return slog.New(slog.DiscardHandler)
}

func (b Builder) reporter(image string) reporter { return reporter{image, b.Progress} }

// Build builds a catalogue image from Debian's packages, or finds the one it
// built before. An error that wraps job.ErrNotFound: there is no such name.
func (b Builder) Build(ctx context.Context, name string) (Archive, error) {
	catalogue := b.catalogue()
	recipe, ok := catalogue.Recipe(name)
	if !ok {
		return Archive{}, fmt.Errorf("build image %q: %w", name, job.ErrNotFound)
	}
	archive, err := b.cache(name).get(ctx, b.buildKey(catalogue, recipe), "", func(ctx context.Context, stage string) (Archive, error) {
		if err := b.checkHost(ctx); err != nil {
			return Archive{}, err
		}
		start := time.Now()
		archive, err := b.build(ctx, catalogue, recipe, stage)
		if err == nil {
			b.logger().InfoContext(ctx, "image is built", "image", name, "digest", archive.Digest, "took", time.Since(start))
		}
		return archive, err
	})
	if err != nil {
		return Archive{}, fmt.Errorf("build image %s: %w", name, err)
	}
	return archive, nil
}

func (b Builder) cache(image string) cache {
	return cache{dir: b.CacheDir, fresh: b.Fresh, report: b.reporter(image)}
}

// buildKey names a built archive in the cache.
func (b Builder) buildKey(c Catalogue, r Recipe) string {
	return fmt.Sprintf("%s-%.16s", r.Name, digestOf(c.hash(r), b.Snapshot, fmt.Sprint(b.Sources)))
}

// build makes the archive in stage, from which the cache takes it.
func (b Builder) build(ctx context.Context, catalogue Catalogue, recipe Recipe, stage string) (Archive, error) {
	report := b.reporter(recipe.Name)
	tree := filepath.Join(stage, "root")
	packages, err := b.unpack(ctx, recipe, stage, tree, report)
	if err != nil {
		return Archive{}, err
	}
	if err := makeMountPoints(tree); err != nil {
		return Archive{}, err
	}
	report.say(StageFixup, "")
	if err := b.fixUp(ctx, catalogue, recipe, stage, tree); err != nil {
		return Archive{}, err
	}
	layer, err := packTree(ctx, tree, filepath.Join(stage, "layer"), report)
	if err != nil {
		return Archive{}, err
	}
	return buildArchive(recipe, packages, layer)
}

// makeMountPoints makes the directories that the sandbox of the fix-up mounts
// onto. os.Root keeps what a package may have linked elsewhere inside.
func makeMountPoints(tree string) (err error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fmt.Errorf("make mount points: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, m := range mountPoints() {
		if err := root.Mkdir(m.path, os.FileMode(m.mode).Perm()); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make mount points: %w", err)
		}
	}
	return nil
}
