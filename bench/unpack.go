package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/sandlot-dev/sandlot/pkg/image"
)

// unpack lays the layers of a catalogue image into a directory. Such images
// are ours: plain files, directories and links, no whiteouts.
func unpack(archive image.Archive, rootfs string) error {
	manifest, err := readBlob(archive, archive.Digest)
	if err != nil {
		return err
	}
	var m struct {
		Layers []struct {
			Digest string `json:"digest"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return err
	}
	for _, layer := range m.Layers {
		err := eachMember(archive, func(name string, body io.Reader) (bool, error) {
			if name != blobName(layer.Digest) {
				return false, nil
			}
			plain, err := zstd.NewReader(body)
			if err != nil {
				return true, err
			}
			defer plain.Close()
			return true, unpackLayer(tar.NewReader(plain), rootfs)
		})
		if err != nil {
			return fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	return nil
}

func blobName(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

func readBlob(archive image.Archive, digest string) (blob []byte, err error) {
	err = eachMember(archive, func(name string, body io.Reader) (bool, error) {
		if name != blobName(digest) {
			return false, nil
		}
		blob, err = io.ReadAll(body)
		return true, err
	})
	return blob, err
}

// eachMember reads the archive until do says that it has what it wants.
func eachMember(archive image.Archive, do func(name string, body io.Reader) (bool, error)) error {
	file, err := archive.Reader()
	if err != nil {
		return err
	}
	defer file.Close()
	for in := tar.NewReader(file); ; {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("not in the archive")
		}
		if err != nil {
			return err
		}
		if done, err := do(head.Name, in); done || err != nil {
			return err
		}
	}
}

func unpackLayer(in *tar.Reader, rootfs string) error {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(strings.TrimPrefix(head.Name, "/"))
		if name == "." {
			continue
		}
		if err := unpackOne(root, name, head, in); err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
	}
}

func unpackOne(root *os.Root, name string, head *tar.Header, body io.Reader) error {
	mode := head.FileInfo().Mode().Perm()
	switch head.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		return root.Chmod(name, mode)
	case tar.TypeSymlink:
		return root.Symlink(head.Linkname, name)
	case tar.TypeLink:
		return root.Link(filepath.Clean(strings.TrimPrefix(head.Linkname, "/")), name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	}
	return nil
}
