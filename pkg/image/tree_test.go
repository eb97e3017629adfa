package image_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/image"
)

// tree makes a directory with a bit of everything, in the given order.
func tree(t *testing.T, at time.Time, backwards bool) string {
	t.Helper()
	root := t.TempDir()
	steps := []func() error{
		func() error { return os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755) },
		func() error { return os.MkdirAll(filepath.Join(root, "var/empty"), 0o700) },
		func() error { return os.Mkdir(filepath.Join(root, "tmp"), 0o700) },
	}
	files := []func() error{
		func() error { return os.WriteFile(filepath.Join(root, "usr/bin/b"), []byte("bb"), 0o755) },
		func() error { return os.WriteFile(filepath.Join(root, "tmp/left"), []byte("left over"), 0o600) },
		func() error { return os.Symlink("b", filepath.Join(root, "usr/bin/c")) },
		func() error { return os.Mkdir(filepath.Join(root, "usr/lib"), 0o755) },
		func() error { return syscall.Mkfifo(filepath.Join(root, "usr/pipe"), 0o600) },
		func() error { return os.WriteFile(filepath.Join(root, "usr/bin/su"), []byte("s"), 0o755) },
	}
	if backwards {
		for i := len(files) - 1; i >= 0; i-- {
			steps = append(steps, files[i])
		}
	} else {
		steps = append(steps, files...)
	}
	steps = append(steps,
		func() error { return os.Link(filepath.Join(root, "usr/bin/b"), filepath.Join(root, "usr/bin/a")) },
		func() error { return os.Chmod(filepath.Join(root, "usr/bin/su"), 0o755|os.ModeSetuid|os.ModeSetgid) },
		func() error { return os.Chtimes(filepath.Join(root, "usr/bin/b"), at, at) },
		func() error { return os.Chtimes(filepath.Join(root, "usr"), at, at) },
	)
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func written(t *testing.T, root string) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := image.WriteTree(t.Context(), &buf, root, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestALayerDependsOnWhatIsInTheTreeOnly(t *testing.T) {
	one := written(t, tree(t, time.Unix(1e9, 0), false))
	two := written(t, tree(t, time.Unix(1.5e9, 0), true))
	if !bytes.Equal(one, two) {
		t.Error("two trees that differ in times and order alone give two layers")
	}
}

func TestALayerHoldsNoPrivilegesAndNoLeftovers(t *testing.T) {
	reader := tar.NewReader(bytes.NewReader(written(t, tree(t, time.Now(), false))))
	got := map[string]tar.Header{}
	for h, err := reader.Next(); err == nil; h, err = reader.Next() {
		got[h.Name] = *h
	}
	if h := got["usr/bin/su"]; h.Mode != 0o755 {
		t.Errorf("su has mode %o", h.Mode)
	}
	if h := got["tmp/"]; h.Mode != 0o1777 {
		t.Errorf("tmp has mode %o", h.Mode)
	}
	if h := got["usr/bin/b"]; h.Typeflag != tar.TypeLink || h.Linkname != "usr/bin/a" {
		t.Errorf("b is %q to %q, want a hard link to a", h.Typeflag, h.Linkname)
	}
	for _, name := range []string{"tmp/left", "usr/pipe"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is in the layer", name)
		}
	}
	if _, ok := got["var/empty/"]; !ok {
		t.Error("an empty directory is not in the layer")
	}
}
