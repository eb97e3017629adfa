package gvisor

import (
	"context"
	"errors"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
)

// chooseSnapshotter takes the first of the good ones that this host's
// containerd could start. native works on every file system and copies each
// layer in full.
func chooseSnapshotter(ctx context.Context, client *containerd.Client) (string, error) {
	plugins, err := client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return "", fmt.Errorf("ask containerd for snapshotters: %w", err)
	}
	for _, name := range []string{"overlayfs", "native"} {
		for _, p := range plugins.Plugins {
			if p.ID == name && p.InitErr == nil {
				return name, nil
			}
		}
	}
	return "", errors.New("containerd has neither the overlayfs nor the native snapshotter")
}
