// Package image makes the images that jobs run in available as archives: one
// tar file per image, in the OCI layout, for linux/amd64.
//
//	catalogue name ─┬─ registry answers ──▶ Pull ─┐
//	                └─ else ──────────────▶ Build ─┼─▶ Archive ──▶ object store ──▶ containerd
//	OCI reference ─────────────────────────▶ Pull ─┤
//	a file from anywhere ──────────────────▶ Open ─┘
//
// An archive is known by the digest of its manifest. Building a recipe twice
// from the same package versions gives the same digest, whoever builds. Every
// archive holds the directories that a sandbox mounts onto, because its root
// is read-only; an image from elsewhere gets them as one small layer on top.
//
// What comes from outside (registries, files) is checked before it is used:
// digests, sizes, platform. What its layers hold is left to the sandbox.
package image
