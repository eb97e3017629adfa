// Package figure keeps what a benchmark has measured: lines to read, and a
// file that says what they were measured on.
package figure

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Figure is one number that can be compared between runs.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Of makes a figure.
func Of(name string, value float64, unit string) Figure { return Figure{name, value, unit} }

// Write prints the figures and keeps them in a file with what they were
// measured on. about says more of the run; optional.
func Write(path string, about map[string]string, all []Figure) error {
	host := describeHost()
	text, err := json.MarshalIndent(map[string]any{
		"time": time.Now().UTC().Format(time.RFC3339), "host": host, "about": about, "figures": all,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Printf("\nmeasured on %s\n", strings.Join([]string{host["cpu"], host["cpus"] + " processors", host["memory"], host["kernel"]}, ", "))
	for _, f := range all {
		fmt.Printf("figure %s %.4g %s\n", f.Name, f.Value, f.Unit)
	}
	return nil
}
