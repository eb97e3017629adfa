package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// instanceLabel says on a container which instance it belongs to: workers that
// share a host's containerd must not reap each other's.
const instanceLabel = "sandlot.dev/instance"

// Reap removes what an earlier life of this instance left: tasks, containers,
// half-unpacked snapshots, cgroups and pipes. Images and their views stay. It
// is called once, before the first Prepare; nothing of this life may run yet.
func (r *Runtime) Reap(ctx context.Context) error {
	var failed []error
	found, err := r.config.Containerd.Client().ContainerService().List(ctx, r.mine())
	if err != nil {
		return fmt.Errorf("reap: list containers: %w", err)
	}
	for _, c := range found {
		r.config.Logger.InfoContext(ctx, "left container is removed", "sandbox", c.ID)
		failed = append(failed, r.reap(ctx, c))
	}
	failed = append(failed, r.reapSnapshots(ctx), r.reapGroups(ctx), emptyDir(r.config.Containerd.FIFODir()))
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("reap: %w", err)
	}
	return nil
}

// mine selects this instance's containers.
func (r *Runtime) mine() string {
	return fmt.Sprintf("labels.%q==%q", instanceLabel, r.config.Containerd.Cgroups().name)
}

// reap removes one container and all that belongs to it.
func (r *Runtime) reap(ctx context.Context, c containers.Container) error {
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	m := &machine{id: c.ID, client: r.config.Containerd.Client()}
	g := r.config.Containerd.Cgroups().group(c.ID)
	if err := g.kill(ctx); err != nil {
		return err
	}
	m.watchExit(ctx)
	m.awaitExit(ctx)
	if err := m.remove(ctx); err != nil {
		return fmt.Errorf("container %s: %w", c.ID, err)
	}
	return g.remove(ctx)
}

// reapSnapshots removes what an interrupted unpacking left. In a containerd of
// our own everything is ours; in a host's, its garbage collector sees to it
// when the leases run out.
func (r *Runtime) reapSnapshots(ctx context.Context) error {
	if r.config.Containerd.config.Address != "" {
		return nil
	}
	client := r.config.Containerd.Client()
	left, err := client.LeasesService().List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, lease := range left {
		if err := client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete lease: %w", err)
		}
	}
	store := client.SnapshotService(r.images.snapshotter)
	var garbage []string
	err = store.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindActive || info.Kind == snapshots.KindView && !strings.HasPrefix(info.Name, viewPrefix) {
			garbage = append(garbage, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range garbage {
		if err := store.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove snapshot %s: %w", name, err)
		}
	}
	return nil
}

// reapGroups removes the cgroups of sandboxes that containerd knows nothing
// of.
func (r *Runtime) reapGroups(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	tree := r.config.Containerd.Cgroups()
	ids := map[string]bool{}
	for _, h := range tree.hierarchies {
		entries, err := os.ReadDir(filepath.Join(h.own, tree.name))
		if err != nil {
			return fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && e.Name() != runtimeGroup && e.Name() != workerGroup {
				ids[e.Name()] = true
			}
		}
	}
	for id := range ids {
		g := tree.group(id)
		if err := errors.Join(g.kill(ctx), g.remove(ctx)); err != nil {
			return err
		}
	}
	return nil
}
