package gvisor

import (
	"reflect"
	"testing"
)

func TestHierarchiesOfHosts(t *testing.T) {
	for name, c := range map[string]struct {
		membership, mounts string
		want               []hierarchy
	}{
		"v1, the worker in other places in each": {
			"4:memory:/a/b\n3:cpu,cpuacct:/\n1:name=systemd:/user\n0::/\n",
			"30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"31 1 0:2 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
				"32 1 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
				"33 1 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			[]hierarchy{
				{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory/a/b"},
				{controllers: []string{"cpu", "cpuacct"}, mount: "/sys/fs/cgroup/cpu,cpuacct", own: "/sys/fs/cgroup/cpu,cpuacct"},
				{controllers: []string{"name=systemd"}, mount: "/sys/fs/cgroup/systemd", own: "/sys/fs/cgroup/systemd/user"},
			},
		},
		"v1 in a container that sees its own part": {
			"4:memory:/docker/x/y\n",
			"30 1 0:1 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			[]hierarchy{{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory/y"}},
		},
		"v1 with a controller that is not mounted": {
			"4:memory:/\n3:pids:/\n",
			"30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			[]hierarchy{{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory"}},
		},
		"v2 below systemd": {
			"0::/system.slice/sandlot-worker.service\n",
			"30 1 0:1 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			[]hierarchy{{unified: true, mount: "/sys/fs/cgroup", own: "/sys/fs/cgroup/system.slice/sandlot-worker.service"}},
		},
		"v2 in a namespace whose root is above the mount": {
			"0::/../other\n",
			"30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
			[]hierarchy{{unified: true, mount: "/sys/fs/cgroup", own: "/sys/fs/cgroup/other"}},
		},
		"noise": {"x\n::\n", "30 1 - x\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := parseHierarchies(c.membership, c.mounts); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestSandboxPathsAreSiblingsOfTheRuntime(t *testing.T) {
	v2 := &Cgroups{name: "sandlot-1", unified: true, below: true, hierarchies: []hierarchy{
		{unified: true, mount: "/sys/fs/cgroup", own: "/sys/fs/cgroup/system.slice/w.service"}}}
	if got := v2.SpecPath("id"); got != "/system.slice/w.service/sandlot-1/id" {
		t.Errorf("v2: %s", got)
	}
	if got := v2.Dir("pids", "id"); got != "/sys/fs/cgroup/system.slice/w.service/sandlot-1/id" {
		t.Errorf("v2: %s", got)
	}
	v1 := &Cgroups{name: "sandlot-1", below: true, hierarchies: []hierarchy{
		{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory/a"}}}
	if got := v1.SpecPath("id"); got != "../id" {
		t.Errorf("v1: %s", got)
	}
	if got := v1.Dir("pids", "id"); got != "" {
		t.Errorf("v1, a controller that is missing: %s", got)
	}
	host := &Cgroups{name: "sandlot-1", hierarchies: []hierarchy{
		{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory"}}}
	if got := host.SpecPath("id"); got != "/sandlot-1/id" {
		t.Errorf("host's containerd: %s", got)
	}
}
