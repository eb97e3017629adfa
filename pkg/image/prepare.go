package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

const defaultPatience = 3 * time.Second

// Prepare makes an image available, whatever way there is: a catalogue name is
// pulled or built as Source says, an OCI reference is pulled. What was
// prepared before is found in the cache.
func (b Builder) Prepare(ctx context.Context, nameOrReference string) (Archive, error) {
	recipe, ok := b.catalogue().Recipe(nameOrReference)
	if !ok {
		return b.prepareReference(ctx, nameOrReference)
	}
	switch b.Source {
	case FromPackages:
		return b.Build(ctx, recipe.Name)
	case FromRegistry:
		return b.pullCached(ctx, recipe.Name, recipe.Reference)
	case Auto, "":
		return b.prepareAuto(ctx, recipe)
	}
	return Archive{}, fmt.Errorf("prepare image %s: source %q is none of %s, %s, %s", recipe.Name, b.Source, Auto, FromRegistry, FromPackages)
}

// prepareReference pulls an image that is not in the catalogue. A bare word is
// rather a mistake than an image of Docker Hub.
func (b Builder) prepareReference(ctx context.Context, reference string) (Archive, error) {
	if !strings.ContainsAny(reference, "/:@") {
		var names []string
		for _, r := range b.catalogue().Recipes() {
			names = append(names, r.Name)
		}
		return Archive{}, fmt.Errorf("prepare image %q: %w; the catalogue has %s; an image of Docker Hub is written docker.io/library/%s",
			reference, job.ErrNotFound, strings.Join(names, ", "), reference)
	}
	return b.pullCached(ctx, reference, reference)
}

// prepareAuto keeps to what is in the cache, so that a name does not change
// its digest with the weather of the network.
func (b Builder) prepareAuto(ctx context.Context, r Recipe) (Archive, error) {
	report := b.reporter(r.Name)
	if archive, ok := b.cached(r); ok && !b.Fresh {
		report.count(StageReady, "cached", archive.Size, archive.Size)
		return archive, nil
	}
	report.say(StageProbe, r.Reference)
	ref, err := name.ParseReference(r.Reference)
	if err != nil {
		return Archive{}, fmt.Errorf("prepare image %s: %w", r.Name, err)
	}
	if _, err = b.ask(ctx, ref); err == nil {
		report.say(StageProbe, "the registry answers: pulling")
		var archive Archive
		if archive, err = b.pullCached(ctx, r.Name, r.Reference); err == nil {
			return archive, nil
		}
	}
	if ctx.Err() != nil {
		return Archive{}, fmt.Errorf("prepare image %s: %w", r.Name, context.Cause(ctx))
	}
	report.say(StageProbe, fmt.Sprintf("%s: %s; building from packages", ref.Context().RegistryStr(), firstLine(err)))
	archive, buildErr := b.Build(ctx, r.Name)
	if buildErr != nil {
		return Archive{}, errors.Join(buildErr, fmt.Errorf("and the registry could not be used: %w", err))
	}
	return archive, nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// pullCached pulls, unless the cache has what the registry has. A registry
// that does not answer is no reason to do without a copy that is there.
func (b Builder) pullCached(ctx context.Context, image, reference string) (Archive, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return Archive{}, fmt.Errorf("prepare image %s: %w", image, err)
	}
	cache, key := b.cache(image), pullKey(image, reference)
	remote := ""
	if digest, ok := ref.(name.Digest); ok {
		remote = digest.DigestStr()
	} else if remote, err = b.ask(ctx, ref); err != nil {
		if archive, ok := cache.find(key); ok && ctx.Err() == nil && !b.Fresh {
			b.reporter(image).count(StageReady, "cached; the registry: "+firstLine(err), archive.Size, archive.Size)
			return archive, nil
		}
		return Archive{}, fmt.Errorf("pull image %s: %w", reference, err)
	}
	archive, err := cache.get(ctx, key, remote, func(ctx context.Context, stage string) (Archive, error) {
		return pull(ctx, ref, stage, b.reporter(image))
	})
	if err != nil {
		return Archive{}, fmt.Errorf("pull image %s: %w", reference, err)
	}
	return archive, nil
}

// pullKey names a pulled archive in the cache.
func pullKey(image, reference string) string {
	word := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '_'
	}, strings.ToLower(image))
	return fmt.Sprintf("pull-%.60s-%.16s", word, digestOf(reference))
}

// Cached lists the names in the catalogue whose images are in the cache.
func (b Builder) Cached() []string {
	var names []string
	for _, r := range b.catalogue().Recipes() {
		if _, ok := b.cached(r); ok {
			names = append(names, r.Name)
		}
	}
	return names
}

// cached finds a recipe's image in the cache, pulled or built.
func (b Builder) cached(r Recipe) (Archive, bool) {
	for _, key := range []string{pullKey(r.Name, r.Reference), b.buildKey(b.catalogue(), r)} {
		if archive, ok := b.cache(r.Name).find(key); ok {
			return archive, true
		}
	}
	return Archive{}, false
}
