package image_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// startRegistry serves an empty registry and returns its host name.
func startRegistry(t *testing.T) (host string, stop func()) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), server.Close
}

// randomImage has layers that say nothing, for a platform.
func randomImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(4096, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config.Env = []string{"ARCH=" + arch}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

func reference(t *testing.T, text string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func push(t *testing.T, ref string, img v1.Image) string {
	t.Helper()
	if err := remote.Write(reference(t, ref), img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestPullTakesTheRightPlatformAndChecksIt(t *testing.T) {
	host, _ := startRegistry(t)
	amd, arm := randomImage(t, "amd64"), randomImage(t, "arm64")
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	if err := remote.WriteIndex(reference(t, host+"/many:1"), index); err != nil {
		t.Fatal(err)
	}
	push(t, host+"/arm:1", arm)

	var b image.Builder
	dst := filepath.Join(t.TempDir(), "many.tar")
	archive, err := b.Pull(t.Context(), host+"/many:1", dst)
	if err != nil {
		t.Fatal(err)
	}
	want, err := amd.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if archive.Source != want.String() || archive.Config.Env[0] != "ARCH=amd64" || archive.Path != dst {
		t.Errorf("archive is %+v, want one of %s", archive, want)
	}
	if again := open(t, dst); again.Digest != archive.Digest {
		t.Errorf("the file opens as %s, it was pulled as %s", again.Digest, archive.Digest)
	}
	if _, err := b.Pull(t.Context(), host+"/arm:1", dst+"2"); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("pulling an image for arm64: %v", err)
	}
	if _, err := b.Pull(t.Context(), host+"/none:1", dst+"3"); err == nil {
		t.Error("an image that is not there was pulled")
	}
	if left := names(t, filepath.Dir(dst)); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestAReferenceIsPulledOnceUntilItMoves(t *testing.T) {
	host, stop := startRegistry(t)
	ref := host + "/app:latest"
	first := push(t, ref, randomImage(t, "amd64"))
	var events []image.Event
	b := image.Builder{CacheDir: t.TempDir(), Progress: func(e image.Event) { events = append(events, e) }}
	prepare := func() image.Archive {
		t.Helper()
		events = nil
		archive, err := b.Prepare(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 || events[len(events)-1].Stage != image.StageReady {
			t.Errorf("events are %v, want one that it is ready at the end", events)
		}
		return archive
	}
	pulled := func() bool {
		for _, e := range events {
			if e.Stage == image.StagePull {
				return true
			}
		}
		return false
	}
	if a := prepare(); a.Source != first || !pulled() {
		t.Errorf("first: %s, pulled %v, want %s", a.Source, pulled(), first)
	}
	if a := prepare(); a.Source != first || pulled() {
		t.Errorf("again: %s, pulled %v", a.Source, pulled())
	}
	second := push(t, ref, randomImage(t, "amd64"))
	if a := prepare(); a.Source != second || !pulled() {
		t.Errorf("moved: %s, pulled %v, want %s", a.Source, pulled(), second)
	}
	stop()
	if a := prepare(); a.Source != second || pulled() {
		t.Errorf("without a registry: %s, pulled %v, want the cached %s", a.Source, pulled(), second)
	}
}

func TestACatalogueNameIsPulledWhereARegistryAnswers(t *testing.T) {
	host, _ := startRegistry(t)
	want := push(t, host+"/tool:1", randomImage(t, "amd64"))
	for _, source := range []image.Source{image.Auto, image.FromRegistry} {
		b := image.Builder{CacheDir: t.TempDir(), Source: source, Catalogue: catalogue(t, host+"/tool:1")}
		archive, err := b.Prepare(t.Context(), "tool")
		if err != nil || archive.Source != want || archive.Reference != host+"/tool:1" {
			t.Errorf("%s: %+v, %v", source, archive, err)
		}
	}
}

// catalogue has one recipe, whose packages no host has.
func catalogue(t *testing.T, ref string) *image.Catalogue {
	t.Helper()
	c, err := image.Load(fstest.MapFS{
		"tool.json": {Data: []byte(`{"name":"tool","reference":"` + ref + `","suite":"bookworm","packages":["no-such-package"]}`)},
		"fixup.sh":  {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestASilentRegistryIsNotWaitedFor(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	const patience = 200 * time.Millisecond
	var said []string
	b := image.Builder{
		CacheDir: t.TempDir(), Catalogue: catalogue(t, listener.Addr().String()+"/tool:1"), Patience: patience,
		Progress: func(e image.Event) { said = append(said, e.Detail) },
	}
	// Without runsc there is no building either: both are said.
	_, err = b.Prepare(t.Context(), "tool")
	if err == nil || !strings.Contains(err.Error(), "no answer within 200ms") || !strings.Contains(err.Error(), "build image tool") {
		t.Errorf("error is %v", err)
	}
	if !strings.Contains(strings.Join(said, "\n"), "building from packages") {
		t.Errorf("progress says %q, not which way was taken", said)
	}
	b.Source = image.FromRegistry
	if _, err = b.Prepare(t.Context(), "tool"); err == nil || strings.Contains(err.Error(), "build") {
		t.Errorf("from the registry alone: %v", err)
	}
}

func TestPrepareSaysWhatIsWrongWithAName(t *testing.T) {
	b := image.Builder{CacheDir: t.TempDir()}
	_, err := b.Prepare(t.Context(), "pyhton")
	if !errors.Is(err, job.ErrNotFound) || !strings.Contains(err.Error(), "docker.io/library/pyhton") {
		t.Errorf("a misspelt name: %v", err)
	}
	if _, err := b.Build(t.Context(), "pyhton"); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("building a misspelt name: %v", err)
	}
	if _, err := b.Prepare(t.Context(), "Not/A/Reference"); err == nil {
		t.Error("a reference in capitals was taken")
	}
	b.Source = "moon"
	if _, err := b.Prepare(t.Context(), "python"); err == nil || !strings.Contains(err.Error(), "moon") {
		t.Errorf("a source that is none: %v", err)
	}
}

func TestPullEndsWithItsContext(t *testing.T) {
	host, _ := startRegistry(t)
	push(t, host+"/app:1", randomImage(t, "amd64"))
	ctx, cancel := context.WithCancel(t.Context())
	b := image.Builder{CacheDir: t.TempDir(), Progress: func(e image.Event) {
		if e.Stage == image.StageVerify {
			cancel()
		}
	}}
	if _, err := b.Prepare(ctx, host+"/app:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	for _, name := range names(t, b.CacheDir) {
		if !strings.HasSuffix(name, ".lock") {
			t.Errorf("left behind: %s", name)
		}
	}
}
