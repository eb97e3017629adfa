package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Image is what a name stands for. The archive lies in Images under the digest.
type Image struct {
	Schema    int       `json:"schema"`
	Name      string    `json:"name"`
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"`
	Source    string    `json:"source"` // where it came from
	CreatedAt time.Time `json:"created_at"`
}

// SetImage makes a name stand for an image.
func (q *Queue) SetImage(ctx context.Context, img Image) error {
	img.Schema = job.Schema
	body, err := json.Marshal(img)
	if err != nil {
		return fmt.Errorf("set image %s: %w", img.Name, err)
	}
	kv, err := q.js.KeyValue(ctx, configBucket)
	if err != nil {
		return fmt.Errorf("set image %s: %w", img.Name, err)
	}
	if _, err := kv.Put(ctx, imageKey(img.Name), body); err != nil {
		return fmt.Errorf("set image %s: %w", img.Name, err)
	}
	return nil
}

// Image is what the name stands for, or job.ErrNotFound.
func (q *Queue) Image(ctx context.Context, name string) (Image, error) {
	m, err := q.last(ctx, "KV_"+configBucket, "$KV."+configBucket+"."+imageKey(name))
	if err == nil && m.header.Get(headerOperation) != "" {
		err = job.ErrNotFound
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	return decodeImage(m.data)
}

func decodeImage(data []byte) (Image, error) {
	var img Image
	if err := json.Unmarshal(data, &img); err != nil {
		return Image{}, fmt.Errorf("decode image: %w", err)
	}
	if err := job.CheckSchema(img.Schema); err != nil {
		return Image{}, fmt.Errorf("image %s: %w", img.Name, err)
	}
	return img, nil
}

// Preference is what is set for an image, and at which revision;
// job.ErrNotFound.
func (q *Queue) Preference(ctx context.Context, image string) (job.Preference, uint64, error) {
	p := job.Preference{}
	revision, err := q.readSetting(ctx, preferKey(image), &p)
	p.Image = image
	if err != nil {
		return p, revision, fmt.Errorf("preference of image %s: %w", image, err)
	}
	return p, revision, nil
}

// SetPreference is SetTenant for an image.
func (q *Queue) SetPreference(ctx context.Context, p job.Preference, revision uint64) (job.Preference, uint64, error) {
	for _, name := range append([]string{p.Pool}, p.SpillTo...) {
		if err := checkToken(name); err != nil {
			return p, 0, fmt.Errorf("set preference: %w", err)
		}
	}
	p.Schema, p.UpdatedAt = job.Schema, time.Now().UTC()
	revision, err := q.writeSetting(ctx, preferKey(p.Image), p, revision)
	if err != nil {
		return p, 0, fmt.Errorf("set preference of image %s: %w", p.Image, err)
	}
	return p, revision, nil
}

// RemovePreference forgets it. Jobs that wait because of it go on to, and spill
// over as they would have.
func (q *Queue) RemovePreference(ctx context.Context, image string, revision uint64) error {
	if err := q.removeSetting(ctx, preferKey(image), revision); err != nil {
		return fmt.Errorf("remove preference of image %s: %w", image, err)
	}
	return nil
}

// Images lists all names in order.
func (q *Queue) Images(ctx context.Context) ([]Image, error) {
	latest := map[string]message{}
	err := q.scan(ctx, "KV_"+configBucket, "$KV."+configBucket+".image.>", func(m message) { latest[m.subject] = m })
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	all := []Image{}
	for _, m := range latest {
		if m.header.Get(headerOperation) != "" {
			continue
		}
		img, err := decodeImage(m.data)
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		all = append(all, img)
	}
	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// RemoveImage forgets a name, and its archive when no other name has it.
func (q *Queue) RemoveImage(ctx context.Context, name string) error {
	img, err := q.Image(ctx, name)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	kv, err := q.js.KeyValue(ctx, configBucket)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	if err := kv.Purge(ctx, imageKey(name)); err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	rest, err := q.Images(ctx)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	if slices.ContainsFunc(rest, func(i Image) bool { return i.Digest == img.Digest }) {
		return nil
	}
	return q.Delete(ctx, Images, img.Digest)
}
