package resident

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"

	"github.com/sandlot-dev/sandlot/deploy/runtime/gvisor/internal/launch"
)

// Recover removes what an earlier life has left on the host. Its sandboxes
// died with it; their cgroups, control sockets and state files did not. What
// may be alive all the same is found by cgroup, never by a remembered number,
// which another process may have by now.
func Recover(settings Settings) error {
	roots, err := filepath.Glob(filepath.Join(settings.root, "*"))
	if err != nil {
		return err
	}
	var failed []error
	for _, root := range roots {
		if info, err := os.Lstat(root); err != nil || !info.IsDir() {
			continue
		}
		failed = append(failed, recoverRoot(root))
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

func recoverRoot(root string) error {
	files, err := launch.Files(root)
	if err != nil {
		return err
	}
	for _, file := range files {
		plan, err := launch.Read(file)
		if err != nil {
			return err
		}
		if err := removeGroups(plan.Groups); err != nil {
			return err
		}
		log.L.WithField("sandbox", filepath.Base(file)).Warn("left sandbox is removed")
	}
	// An empty network namespace may be mounted in here.
	left, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, entry := range left {
		path := filepath.Join(root, entry.Name())
		if err := errors.Join(mount.UnmountAll(path, 0), os.RemoveAll(path)); err != nil {
			return err
		}
	}
	return nil
}
