package need

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/image"
)

// Images returns archives of catalogue images, in the order of the names. Those
// that are not in the user's cache are built or pulled first, which takes some
// seconds each.
func Images(t testing.TB, names ...string) []image.Archive {
	t.Helper()
	binaries := binaries(t, "images")
	cache, err := os.UserCacheDir()
	if err != nil {
		missing(t, "images", "%v", err)
	}
	builder := image.Builder{
		CacheDir: filepath.Join(cache, "sandlot", "images"),
		Runsc:    binaries.Runsc,
		Install:  true,
		Progress: func(e image.Event) { t.Logf("image %s: %s %s", e.Image, e.Stage, e.Detail) },
	}
	var archives []image.Archive
	for _, name := range names {
		archive, err := builder.Prepare(t.Context(), name)
		if err != nil {
			missing(t, "images", "%v", err)
		}
		archives = append(archives, archive)
	}
	return archives
}
