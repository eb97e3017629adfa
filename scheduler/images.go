package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// maxImage bounds an upload.
const maxImage = 16 << 30

func (s *Scheduler) handleImages(w http.ResponseWriter, r *http.Request) error {
	stored, err := s.Queue.Images(r.Context())
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	list := []api.Image{}
	seen := map[string]bool{}
	for _, img := range stored {
		seen[img.Name] = true
		list = append(list, s.viewImage(img))
	}
	for _, recipe := range s.catalogue.Recipes() {
		if !seen[recipe.Name] {
			list = append(list, s.viewRecipe(recipe.Name))
		}
	}
	return writeJSON(w, http.StatusOK, api.Images{Images: list})
}

func (s *Scheduler) viewImage(img queue.Image) api.Image {
	v := s.viewRecipe(img.Name)
	v.Digest, v.Size, v.Present, v.UpdatedAt = img.Digest, job.Bytes(img.Size), true, img.CreatedAt
	return v
}

// viewRecipe is what is known of a name whether or not an image is stored
// under it.
func (s *Scheduler) viewRecipe(name string) api.Image {
	v := api.Image{Name: name}
	if recipe, ok := s.catalogue.Recipe(name); ok {
		v.Catalogue, v.Description, v.Languages = true, recipe.Summary, languagesOf(recipe)
	}
	if prefer, ok := s.settings.preference(name); ok {
		v.Pool, v.SpillAfter, v.SpillTo = prefer.Pool, prefer.SpillAfter, prefer.SpillTo
	}
	return v
}

func languagesOf(r image.Recipe) []string {
	var names []string
	for _, l := range r.Languages {
		names = append(names, l.Name)
	}
	return names
}

// handlePutImage takes an OCI archive, checks it and stores it under a name.
func (s *Scheduler) handlePutImage(w http.ResponseWriter, r *http.Request) (err error) {
	name := r.PathValue("name")
	if why := api.BadImage(name); why != "" {
		return invalid("name", clean(name), "%s", why)
	}
	if r.ContentLength > maxImage {
		return api.NewProblem(http.StatusRequestEntityTooLarge, api.TypeTooLarge, "an image may have at most %s", job.Bytes(maxImage))
	}
	file, err := os.CreateTemp(s.TempDir, "sandlot-image-")
	if err != nil {
		return fmt.Errorf("take image: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	body := &patientReader{body: r.Body, control: http.NewResponseController(w), each: s.BodyTime}
	_, err = io.Copy(file, http.MaxBytesReader(w, io.NopCloser(body), maxImage))
	if closeErr := file.Close(); err == nil && closeErr != nil {
		return fmt.Errorf("take image: %w", closeErr)
	}
	if err != nil {
		return api.NewProblem(http.StatusBadRequest, api.TypeSyntax, "the archive did not arrive whole: %v", err)
	}
	archive, err := image.Open(file.Name())
	if err != nil {
		return api.NewProblem(http.StatusUnprocessableEntity, api.TypeInvalid, "this is not an image archive: %v", err)
	}
	img, err := s.storeImage(r, name, archive)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.viewImage(img))
}

// storeImage stores the archive by its digest and makes the name stand for
// it.
func (s *Scheduler) storeImage(r *http.Request, name string, archive image.Archive) (queue.Image, error) {
	img := queue.Image{Schema: job.Schema, Name: name, Digest: archive.Digest, Size: archive.Size, Source: "upload", CreatedAt: time.Now().UTC()}
	_, err := s.Queue.Stat(r.Context(), queue.Images, archive.Digest)
	if errors.Is(err, job.ErrNotFound) {
		err = s.putArchive(r, archive)
	}
	if err != nil {
		return img, fmt.Errorf("store image %s: %w", name, err)
	}
	if err := s.Queue.SetImage(r.Context(), img); err != nil {
		return img, fmt.Errorf("name image %s: %w", name, err)
	}
	return img, nil
}

func (s *Scheduler) putArchive(r *http.Request, archive image.Archive) error {
	content, err := archive.Reader()
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = s.Queue.Put(r.Context(), queue.Images, archive.Digest, content)
	return err
}

// handlePatchImage sets which pool an image prefers.
func (s *Scheduler) handlePatchImage(w http.ResponseWriter, r *http.Request) error {
	ctx, name := r.Context(), r.PathValue("name")
	in, err := decoded(s, w, r, api.DecodeImageSettings)
	if err != nil {
		return err
	}
	if err := s.knownPools(ctx, in); err != nil {
		return err
	}
	img, err := s.Queue.Image(ctx, name)
	if _, inCatalogue := s.catalogue.Recipe(name); errors.Is(err, job.ErrNotFound) && inCatalogue {
		err = nil // to be built later
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	if err := s.setPreference(ctx, name, in); err != nil {
		return err
	}
	if img.Name == "" {
		return writeJSON(w, http.StatusOK, s.viewRecipe(name))
	}
	return writeJSON(w, http.StatusOK, s.viewImage(img))
}

// knownPools refuses settings that name a pool that is not there.
func (s *Scheduler) knownPools(ctx context.Context, in api.ImageSettings) error {
	pools, err := s.pools(ctx)
	if err != nil {
		return err
	}
	var wrong []api.FieldError
	check := func(location, name string) {
		if name != "" && !slices.ContainsFunc(pools, func(p job.Pool) bool { return p.Name == name }) {
			wrong = append(wrong, api.FieldError{Location: location, Value: name, Message: "is not known; there are " + poolNames(pools)})
		}
	}
	if in.Pool != nil {
		check("pool", *in.Pool)
	}
	if in.SpillTo != nil {
		for i, name := range *in.SpillTo {
			check(fmt.Sprintf("spill_to[%d]", i), name)
		}
	}
	if wrong != nil {
		return api.Invalid(wrong)
	}
	return nil
}

// setPreference changes what is set for an image by compare-and-set, again if
// somebody else was faster, and waits until this scheduler knows it.
func (s *Scheduler) setPreference(ctx context.Context, name string, in api.ImageSettings) error {
	for {
		prefer, revision, err := s.Queue.Preference(ctx, name)
		there := err == nil
		if errors.Is(err, job.ErrNotFound) {
			prefer, revision, err = job.Preference{Image: name, SpillAfter: job.DefaultSpillAfter, SpillTo: []string{job.DefaultPool}}, 0, nil
		}
		if err != nil {
			return fmt.Errorf("read preference: %w", err)
		}
		changed := merge(prefer, in)
		switch {
		case changed.Pool == "" && there:
			err = s.Queue.RemovePreference(ctx, name, revision)
		case changed.Pool == "" && in.Pool == nil:
			return invalid("pool", nil, "is missing; the image prefers none so far, and only jobs in a preferred pool spill over")
		case changed.Pool == "":
			return nil
		default:
			changed, _, err = s.Queue.SetPreference(ctx, changed, revision)
		}
		if errors.Is(err, queue.ErrChanged) {
			continue
		}
		if err != nil {
			return fmt.Errorf("set preference: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, poolTime)
		defer cancel()
		return s.settings.await(ctx, func() bool {
			now, there := s.settings.prefer[name]
			if changed.Pool == "" {
				return !there
			}
			return there && !now.UpdatedAt.Before(changed.UpdatedAt)
		})
	}
}

// merge is a preference with what some settings say.
func merge(p job.Preference, in api.ImageSettings) job.Preference {
	if in.Pool != nil {
		p.Pool = *in.Pool
	}
	if in.SpillAfter != nil {
		p.SpillAfter = *in.SpillAfter
	}
	if in.SpillTo != nil {
		p.SpillTo = *in.SpillTo
	}
	p.SpillTo = slices.DeleteFunc(slices.Clone(p.SpillTo), func(to string) bool { return to == p.Pool })
	return p
}

func (s *Scheduler) handleDeleteImage(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.Queue.Image(r.Context(), r.PathValue("name")); err != nil {
		return fmt.Errorf("image %s: %w", r.PathValue("name"), err)
	}
	if err := s.Queue.RemoveImage(r.Context(), r.PathValue("name")); err != nil {
		return fmt.Errorf("remove image %s: %w", r.PathValue("name"), err)
	}
	none := ""
	if err := s.setPreference(r.Context(), r.PathValue("name"), api.ImageSettings{Pool: &none}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
