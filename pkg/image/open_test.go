package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sandlot-dev/sandlot/pkg/image"
)

var complete = []string{
	"dev/", "dev/pts/", "dev/shm/", "home/", "home/sandlot/", "proc/", "root/", "run/", "run/sandlot/",
	"run/sandlot/agent/", "run/sandlot/disk/", "sys/", "tmp/", "work/", "bin/", "bin/tool",
}

func open(t *testing.T, path string) image.Archive {
	t.Helper()
	archive, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// stream is what Reader gives, which must be as long as it says.
func stream(t *testing.T, a image.Archive) []byte {
	t.Helper()
	reader, err := a.Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	data, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != a.Size {
		t.Errorf("the stream has %d bytes, Size says %d", len(data), a.Size)
	}
	return data
}

func TestAnImageThatLacksNothingKeepsItsDigest(t *testing.T) {
	d := newDraft(t, layer(t, complete...)).link()
	archive := open(t, d.write(nil))
	if want := d.index.Manifests[0].Digest.String(); archive.Digest != want || archive.Source != "" {
		t.Errorf("digest %s from %q, want %s from nothing else", archive.Digest, archive.Source, want)
	}
	if !slices.Equal(archive.Config.Env, []string{"A=b"}) || archive.Config.User != "7" {
		t.Errorf("configuration is %+v", archive.Config)
	}
	again := open(t, writeFile(t, stream(t, archive)))
	if again.Digest != archive.Digest || !bytes.Equal(stream(t, again), stream(t, archive)) {
		t.Error("the archive's own stream opens as something else")
	}
}

func TestMissingMountPointsAreAddedAsALayer(t *testing.T) {
	cases := map[string]struct {
		layers  [][]string
		missing []string
	}{
		"an image of one file":            {[][]string{{"hello"}}, without(dirs(complete), "bin/")},
		"one directory is missing":        {[][]string{without(complete, "work/")}, []string{"work/"}},
		"it comes in a later layer":       {[][]string{without(complete, "work/"), {"work/"}}, nil},
		"a later layer deletes it":        {[][]string{complete, {".wh.work"}}, []string{"work/"}},
		"a later layer empties /run":      {[][]string{complete, {"run/.wh..wh..opq"}}, []string{"run/sandlot/", "run/sandlot/agent/", "run/sandlot/disk/"}},
		"a later layer puts a file there": {[][]string{complete, {"tmp"}}, []string{"tmp/"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, names := range c.layers {
				layers = append(layers, layer(t, names...))
			}
			d := newDraft(t, layers...)
			d.config.History = make([]v1.History, len(layers))
			archive := open(t, d.link().write(nil))
			source := d.index.Manifests[0].Digest.String()
			if added := archive.Digest != source; added != (len(c.missing) > 0) || added && archive.Source != source {
				t.Fatalf("digest %s from %q; the image was %s", archive.Digest, archive.Source, source)
			}
			if len(c.missing) > 0 {
				var added []string
				reader := tar.NewReader(lastLayer(t, archive))
				for h, err := reader.Next(); err == nil; h, err = reader.Next() {
					added = append(added, h.Name)
				}
				if !slices.Equal(added, c.missing) {
					t.Errorf("added %q, want %q", added, c.missing)
				}
			}
			again := open(t, writeFile(t, stream(t, archive)))
			if again.Digest != archive.Digest || again.Source != "" {
				t.Errorf("opened again the digest is %s from %q, it was %s", again.Digest, again.Source, archive.Digest)
			}
		})
	}
}

func dirs(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasSuffix(n, "/") })
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

func TestOneImageIsFoundAmongOthers(t *testing.T) {
	d := newDraft(t, layer(t, complete...)).link()
	wanted := d.index.Manifests[0]
	arm := newDraft(t, layer(t, complete...))
	arm.config.Architecture = "arm64"
	other := d.put(v1.MediaTypeImageManifest, d.json(arm.link().manifest))
	other.Platform = &v1.Platform{OS: "linux", Architecture: "arm64"}
	attestation := d.put(v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`))
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	nested := d.put(v1.MediaTypeImageIndex, d.json(v1.Index{Manifests: []v1.Descriptor{other, wanted, attestation}}))
	d.index.Manifests = []v1.Descriptor{nested, wanted} // two tags of one image
	if got := open(t, d.write(nil)); got.Digest != wanted.Digest.String() {
		t.Errorf("found %s, want %s", got.Digest, wanted.Digest)
	}
}

func TestDockerSaveBecomesAnOCILayout(t *testing.T) {
	first, second := layer(t, complete...), layer(t, "etc/", "etc/motd")
	d := newDraft(t, first, second, first)
	config := d.json(d.config)
	files := map[string][]byte{
		"manifest.json": []byte(`[{"Config":"c.json","RepoTags":["a:b"],"Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]`),
		"c.json":        config, "1/layer.tar": first, "2/layer.tar": second,
		"index.json": nil, "oci-layout": nil,
	}
	d.extra = []member{{header: tar.Header{Typeflag: tar.TypeSymlink, Name: "3/layer.tar", Linkname: "../1/layer.tar"}}}
	archive := open(t, d.write(files))
	if archive.Config.User != "7" || archive.Unpacked == 0 {
		t.Errorf("archive is %+v", archive)
	}
	again := open(t, writeFile(t, stream(t, archive)))
	if again.Digest != archive.Digest {
		t.Errorf("the stream's digest is %s, the archive's %s", again.Digest, archive.Digest)
	}
}

func TestAbusiveArchivesAreRefused(t *testing.T) {
	good := layer(t, complete...)
	cases := map[string]struct {
		spoil func(d *draft) string // returns the path
		want  string
	}{
		"an empty file":              {func(d *draft) string { return writeFile(d.t, nil) }, "too short"},
		"not a tar file":             {func(d *draft) string { return writeFile(d.t, bytes.Repeat([]byte("no tar "), 500)) }, "read tar file"},
		"compressed as a whole":      {func(d *draft) string { return writeFile(d.t, compress(d.t, []byte("x"))) }, "gunzip"},
		"cut short":                  {cutShort, ""},
		"neither index nor manifest": {func(d *draft) string { return d.write(map[string][]byte{"index.json": nil}) }, "neither"},
		"no oci-layout file":         {func(d *draft) string { return d.write(map[string][]byte{"oci-layout": nil}) }, "oci-layout is missing"},
		"a layout of the future": {func(d *draft) string {
			return d.write(map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"9"}`)})
		}, "version"},
		"an index that is no JSON":     {func(d *draft) string { return d.write(map[string][]byte{"index.json": []byte("{")}) }, "index.json"},
		"an index without manifests":   {func(d *draft) string { d.index.Manifests = nil; return d.write(nil) }, "no image"},
		"an index of 5 MB":             {func(d *draft) string { return d.write(map[string][]byte{"index.json": make([]byte, 5<<20)}) }, "more than"},
		"a manifest with another hash": {func(d *draft) string { return d.replace(d.index.Manifests[0], flip) }, "digest"},
		"a config with another hash":   {func(d *draft) string { return d.replace(d.manifest.Config, flip) }, "digest"},
		"a layer with another hash":    {func(d *draft) string { return d.replace(d.manifest.Layers[0], other) }, "its content has digest"},
		"a config that is missing":     {func(d *draft) string { return d.write(map[string][]byte{blob(d.manifest.Config): nil}) }, "is missing"},
		"a layer that is missing":      {func(d *draft) string { return d.write(map[string][]byte{blob(d.manifest.Layers[0]): nil}) }, "is missing"},
		"a layer of another size": {func(d *draft) string {
			d.manifest.Layers[0].Size = 1 << 40
			return d.linkManifest().write(nil)
		}, "its descriptor says 1099511627776"},
		"a negative size": {func(d *draft) string {
			d.index.Manifests[0].Size = -1
			return d.write(nil)
		}, "its descriptor says -1"},
		"a digest that is a path": {func(d *draft) string {
			d.index.Manifests[0].Digest = "sha256:../../../etc/passwd"
			return d.write(nil)
		}, "digest"},
		"a digest of another kind": {func(d *draft) string {
			d.index.Manifests[0].Digest = digest.SHA512.FromString("x")
			return d.write(nil)
		}, "only sha256"},
		"a member that leaves the archive is not a blob": {func(d *draft) string {
			name := blob(d.index.Manifests[0])
			return d.write(map[string][]byte{name: nil, "../../" + path.Base(name): []byte("{}")})
		}, "is missing"},
		"a blob twice": {func(d *draft) string {
			d.extra = []member{{tar.Header{Typeflag: tar.TypeReg, Name: "./" + blob(d.manifest.Config), Size: 2}, []byte("{}")}}
			return d.write(nil)
		}, "there twice"},
		"a device": {func(d *draft) string {
			d.extra = []member{{header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk"}}}
			return d.write(nil)
		}, "neither a file"},
		"an index inside itself without end": {nestedIndexes, "nested too deep"},
		"a thousand manifests": {func(d *draft) string {
			for range 1000 {
				d.index.Manifests = append(d.index.Manifests, d.index.Manifests[0])
			}
			return d.write(nil)
		}, "more than 256"},
		"two images":                 {twoImages, "2 images"},
		"an image for arm64":         {func(d *draft) string { d.config.Architecture = "arm64"; return d.link().write(nil) }, "only for linux/arm64"},
		"no architecture":            {func(d *draft) string { d.config.Architecture = ""; return d.link().write(nil) }, "lacks architecture or os"},
		"no os":                      {func(d *draft) string { d.config.OS = ""; return d.link().write(nil) }, "lacks architecture or os"},
		"no layers":                  {func(d *draft) string { d.layers, d.config.RootFS.DiffIDs = nil, nil; return d.link().write(nil) }, "no layers"},
		"more layers than named":     {func(d *draft) string { d.config.RootFS.DiffIDs = nil; return d.link().write(nil) }, "names 0 layers"},
		"a layer of another content": {func(d *draft) string { d.config.RootFS.DiffIDs[0] = digest.FromString("x"); return d.link().write(nil) }, "unpacks to digest"},
		"a layer of another type":    {func(d *draft) string { d.types[0] = v1.MediaTypeImageLayerZstd; return d.link().write(nil) }, "it is called"},
		"a layer of no known type":   {func(d *draft) string { d.types[0] = "text/html"; return d.link().write(nil) }, "not supported"},
		"a layer to be fetched elsewhere": {func(d *draft) string {
			d.manifest.Layers[0].URLs = []string{"http://192.0.2.1/"}
			return d.linkManifest().write(nil)
		}, "not supported"},
		"a thousand layers": {func(d *draft) string {
			for range 1000 {
				d.manifest.Layers = append(d.manifest.Layers, d.manifest.Layers[0])
			}
			return d.linkManifest().write(nil)
		}, "more than 127"},
		"an environment that is none": {func(d *draft) string { d.config.Config.Env = []string{"novalue"}; return d.link().write(nil) }, "NAME=value"},
		"docker save of two images": {func(d *draft) string {
			return d.write(map[string][]byte{"index.json": nil, "manifest.json": []byte(`[{},{}]`)})
		}, "2 images"},
		"docker save with a path outside": {func(d *draft) string {
			return d.write(map[string][]byte{"index.json": nil, "manifest.json": []byte(`[{"Config":"../../../../etc/passwd"}]`)})
		}, "etc/passwd is missing"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := image.Open(c.spoil(newDraft(t, good).link()))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func blob(d v1.Descriptor) string { return "blobs/sha256/" + d.Digest.Encoded() }

func (d *draft) replace(of v1.Descriptor, change func([]byte) []byte) string {
	return d.write(map[string][]byte{blob(of): change(d.blobs[blob(of)])})
}

// flip changes one byte and not the size.
func flip(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)/2] ^= 1
	return data
}

// other is the same layer stored in another way: gzip names the system that
// made it.
func other(data []byte) []byte {
	data = bytes.Clone(data)
	data[9] ^= 1
	return data
}

func cutShort(d *draft) string {
	path := d.write(nil)
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return path
}

func nestedIndexes(d *draft) string {
	for range 10 {
		inner := d.put(v1.MediaTypeImageIndex, d.json(d.index))
		d.index.Manifests = []v1.Descriptor{inner}
	}
	return d.write(nil)
}

func twoImages(d *draft) string {
	first := d.index.Manifests[0]
	d.config.Config.User = "8"
	d.link()
	d.index.Manifests = append(d.index.Manifests, first)
	return d.write(nil)
}

func TestBombsStopAtTheBounds(t *testing.T) {
	zeros := func(size int64) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		add(t, w, tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: size}, make([]byte, size))
		return buf.Bytes()
	}
	// A header that claims a terabyte, in a file of two blocks.
	var claim bytes.Buffer
	if err := tar.NewWriter(&claim).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "huge", Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	many := make([]string, 2000)
	for i := range many {
		many[i] = strings.Repeat("f", i%200+1) + "/"
	}
	cases := map[string]struct {
		layer  []byte
		bounds image.Bounds
		want   string
	}{
		"4 MB of zeros":       {zeros(4 << 20), image.Bounds{Unpacked: 1 << 20}, "too many bytes"},
		"a claim":             {claim.Bytes(), image.Bounds{}, "too many bytes"},
		"zeros after the end": {append(layer(t, "x"), make([]byte, 2<<20)...), image.Bounds{Unpacked: 1 << 20}, "too many bytes"},
		"many files":          {layer(t, many...), image.Bounds{Files: 1000}, "too many files"},
		"a large archive":     {zeros(1 << 20), image.Bounds{Archive: 512}, "larger than 512"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := image.OpenWithin(newDraft(t, c.layer).link().write(nil), c.bounds)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestAFileThatShrinksAfterOpenIsAnError(t *testing.T) {
	archive := open(t, newDraft(t, layer(t, complete...)).link().write(nil))
	if err := os.Truncate(archive.Path, 512); err != nil {
		t.Fatal(err)
	}
	reader, err := archive.Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := io.Copy(io.Discard, reader); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error is %v, want an unexpected end", err)
	}
}

func FuzzOpenNeverPanics(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:00","size":-5}]}`), []byte(`{}`))
	f.Add([]byte(`{"manifests":[]}`), []byte(`[{"Config":"c","Layers":["l"]}]`))
	f.Fuzz(func(t *testing.T, index, manifest []byte) {
		d := newDraft(t)
		files := map[string][]byte{"index.json": index, "manifest.json": manifest}
		if len(index) == 0 {
			files["index.json"] = nil
		}
		sum := digest.FromBytes(manifest)
		files["blobs/sha256/"+sum.Encoded()] = manifest
		if json.Valid(index) && len(index) > 0 {
			// The same manifest, reached by a right descriptor.
			d.index.Manifests = []v1.Descriptor{{MediaType: v1.MediaTypeImageManifest, Digest: sum, Size: int64(len(manifest))}}
			files["index.json"] = d.json(d.index)
		}
		if _, err := image.Open(d.write(files)); err == nil {
			t.Error("an image without layers was opened")
		}
	})
}
