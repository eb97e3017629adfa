package image

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// packMountPoints writes a layer with the given directories.
func packMountPoints(w io.Writer, dirs []mountPoint) (packed, error) {
	layer, err := pack(w, func(w io.Writer) error {
		t := tar.NewWriter(w)
		for _, d := range dirs {
			if err := t.WriteHeader(d.header()); err != nil {
				return err
			}
		}
		return t.Close()
	})
	if err != nil {
		return packed{}, fmt.Errorf("write layer of mount points: %w", err)
	}
	return layer, nil
}

// addLayer names one more layer in a configuration, whose other fields stay,
// those that this code does not know among them.
func addLayer(config []byte, diff digest.Digest) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var c v1.Image
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	at := epoch()
	c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, diff)
	rootfs, err := json.Marshal(c.RootFS)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	fields["rootfs"] = rootfs
	if len(c.History) > 0 {
		c.History = append(c.History, v1.History{Created: &at, CreatedBy: "sandlot: mount points"})
		history, err := json.Marshal(c.History)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		fields["history"] = history
	}
	changed, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return changed, nil
}
