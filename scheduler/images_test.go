package scheduler_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// archive is an image with one file, as docker save writes it.
func archive(t *testing.T) []byte {
	t.Helper()
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	must(t, tw.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: 2}))
	_, err := tw.Write([]byte("hi"))
	must(t, err)
	must(t, tw.Close())
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	_, err = zw.Write(plain.Bytes())
	must(t, err)
	must(t, zw.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil })
	must(t, err)
	img, err := mutate.AppendLayers(empty.Image, layer)
	must(t, err)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{Architecture: "amd64", OS: "linux", RootFS: mustConfig(t, img).RootFS})
	must(t, err)
	var out bytes.Buffer
	must(t, tarball.Write(nil, img, &out))
	return out.Bytes()
}

func mustConfig(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	must(t, err)
	return c
}

func TestAnImageIsUploadedListedUsedAndForgotten(t *testing.T) {
	var temp string
	w := newWorld(t, func(c *scheduler.Config) { temp = c.TempDir })
	data := archive(t)
	var sent int64
	const name = "registry.example:5000/team/app:1.0"
	img, err := w.client.PutImage(w.ctx, name, bytes.NewReader(data), int64(len(data)), func(n int64) { sent = n })
	must(t, err)
	if img.Name != name || !strings.HasPrefix(img.Digest, "sha256:") || !img.Present || sent != int64(len(data)) {
		t.Errorf("stored %+v, %d of %d bytes sent", img, sent, len(data))
	}
	if _, err := w.queue.Stat(w.ctx, queue.Images, img.Digest); err != nil {
		t.Errorf("archive: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, as := range []string{name, img.Digest} {
		j, err := w.client.Submit(w.ctx, api.Submit{Image: as, Command: []string{"hello"}}, 0)
		must(t, err)
		if j.Image.Digest != img.Digest {
			t.Errorf("%s ran as %s", as, j.Image.Digest)
		}
	}
	list, err := w.client.Images(w.ctx)
	must(t, err)
	present := map[string]bool{}
	for _, one := range list {
		present[one.Name] = one.Present
	}
	if gcc, known := present["gcc"]; !present[name] || !present["python"] || gcc || !known {
		t.Errorf("listed %+v", list)
	}
	must(t, w.client.DeleteImage(w.ctx, name))
	_, err = w.client.Submit(w.ctx, api.Submit{Image: name, Command: []string{"hello"}}, 0)
	if p := problem(t, err); p.Status != 422 {
		t.Errorf("got %+v", p)
	}
}

func TestLanguageBecomesFilesAndSteps(t *testing.T) {
	w := newWorld(t, nil)
	must(t, w.queue.SetImage(w.ctx, queue.Image{Schema: job.Schema, Name: "gcc", Digest: digest, Source: "test", CreatedAt: time.Now()}))
	specs := make(chan job.Spec, 1)
	w.work(1, func(r job.Record) (job.State, *job.Result) { specs <- *r.Spec; return job.Succeeded, nil })
	_, err := w.client.Submit(w.ctx, api.Submit{
		Language: "c", Code: "int main(){}", Stdin: "in", Env: map[string]string{"A": "1"},
		Files: []job.File{{Path: "data.txt", Content: "x"}},
	}, 20*time.Second)
	must(t, err)
	spec := <-specs
	last := spec.Steps[len(spec.Steps)-1]
	if spec.Image.Name != "gcc" || len(spec.Steps) < 2 || len(spec.Files) != 2 || spec.Files[1].Content != "int main(){}" {
		t.Errorf("spec %+v", spec)
	}
	if last.Stdin != "in" || spec.Steps[0].Stdin != "" || spec.Steps[0].Env["A"] != "1" || last.Env["A"] != "1" {
		t.Errorf("steps %+v", spec.Steps)
	}
}
