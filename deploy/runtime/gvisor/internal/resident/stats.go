package resident

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

// stats reads the cgroup's counters, in the form of that version.
func (b *sandbox) stats() (*task.StatsResponse, error) {
	b.init.mu.Lock()
	defer b.init.mu.Unlock()
	if b.container == nil || b.group == nil {
		return nil, fmt.Errorf("task %s is gone: %w", b.name.id, errdefs.ErrNotFound)
	}
	metrics, err := b.group.metrics()
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	packed, err := typeurl.MarshalAnyToProto(metrics)
	if err != nil {
		return nil, err
	}
	return &task.StatsResponse{Stats: packed}, nil
}

func (g *group) metrics() (any, error) {
	if g.unified {
		manager, err := cgroup2.Load(strings.TrimPrefix(g.dirs["memory"], "/sys/fs/cgroup"))
		if err != nil {
			return nil, err
		}
		return manager.Stat()
	}
	manager, err := cgroup1.Load(g.place, cgroup1.WithHierarchy(g.hierarchy))
	if err != nil {
		return nil, err
	}
	return manager.Stat(cgroup1.IgnoreNotExist)
}

// hierarchy are the controllers that the group is made of.
func (g *group) hierarchy() ([]cgroup1.Subsystem, error) {
	return []cgroup1.Subsystem{
		cgroup1.NewMemory(cgroupMount), cgroup1.NewPids(cgroupMount), cgroup1.NewCpuacct(cgroupMount),
	}, nil
}

const cgroupMount = "/sys/fs/cgroup"

// place is the group's path in the hierarchy of a controller.
func (g *group) place(controller cgroup1.Name) (string, error) {
	dir, err := filepath.Rel(filepath.Join(cgroupMount, string(controller)), g.dirs[string(controller)])
	return "/" + dir, err
}
