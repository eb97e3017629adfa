package scheduler

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
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
			list = append(list, api.Image{Name: recipe.Name, Catalogue: true, Description: recipe.Summary, Languages: languagesOf(recipe)})
		}
	}
	return writeJSON(w, http.StatusOK, api.Images{Images: list})
}

func (s *Scheduler) viewImage(img queue.Image) api.Image {
	v := api.Image{Name: img.Name, Digest: img.Digest, Size: job.Bytes(img.Size), Present: true, UpdatedAt: img.CreatedAt}
	if recipe, ok := s.catalogue.Recipe(img.Name); ok {
		v.Catalogue, v.Description, v.Languages = true, recipe.Summary, languagesOf(recipe)
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

func (s *Scheduler) handleDeleteImage(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.Queue.Image(r.Context(), r.PathValue("name")); err != nil {
		return fmt.Errorf("image %s: %w", r.PathValue("name"), err)
	}
	if err := s.Queue.RemoveImage(r.Context(), r.PathValue("name")); err != nil {
		return fmt.Errorf("remove image %s: %w", r.PathValue("name"), err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
