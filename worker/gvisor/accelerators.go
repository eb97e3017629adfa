package gvisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// filterMark is part of the name of a seccomp program that was compiled into
// runsc when it was built (deploy/runtime/gvisor/internal/filters).
var filterMark = []byte(`Platform="systrap" HostNetwork=false`)

// accelerators says of each thing that makes sandboxes start sooner whether
// the installed programs have it, and what its lack costs.
func accelerators(b Binaries) []Fact {
	_, noErofs := findMkfs()
	return []Fact{
		{"accelerator: seccomp", activeUnless(hasFilters(b.Runsc),
			"programs ready made", "compiled at every start, about 12 ms of processor time each")},
		{"accelerator: prewarmer", activeUnless(hasPrewarmer(b.Runsc),
			"large table of files, patient garbage collector", "4 to 35 ms at every start")},
		{"accelerator: erofs", activeUnless(noErofs,
			"roots are files, no file server beside a sandbox", "about 20 ms of processor time at every start, 25 MB of memory")},
	}
}

func activeUnless(why error, gives, costs string) string {
	if why != nil {
		return fmt.Sprintf("inactive: %v; costs: %s", why, costs)
	}
	return "active: " + gives
}

// hasFilters looks for the programs in the binary.
func hasFilters(runsc string) (err error) {
	file, err := os.Open(runsc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	// Pieces overlap by the length of the mark, so that none is cut in two.
	piece, kept := make([]byte, 1<<20), 0
	for {
		n, err := io.ReadFull(file, piece[kept:])
		if bytes.Contains(piece[:kept+n], filterMark) {
			return nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%s was built without them", runsc)
		}
		if err != nil {
			return err
		}
		kept = copy(piece, piece[len(piece)-len(filterMark):])
	}
}

// hasPrewarmer looks where runsc does.
func hasPrewarmer(runsc string) error {
	path := filepath.Join(filepath.Dir(runsc), "gvisor-bin", "gvisor-sentry-prewarmer")
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not a program", path)
	}
	return nil
}
