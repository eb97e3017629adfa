package gvisor

import (
	"errors"
	"fmt"
)

// Choice is which runtime a worker makes its sandboxes with.
type Choice string

const (
	// Stock is gVisor's own shim, a process for each sandbox that executes
	// runsc for every change of its state.
	Stock Choice = "stock"
	// Resident is one process for all sandboxes, which makes them in itself.
	Resident Choice = "resident"
)

// ErrChoice means that a choice has no such name.
var ErrChoice = fmt.Errorf("is neither %s nor %s", Stock, Resident)

// Valid tells whether a choice has a name.
func (c Choice) Valid() error {
	if c != Stock && c != Resident {
		return fmt.Errorf("runtime %q %w", string(c), ErrChoice)
	}
	return nil
}

// On is what a choice comes to on this host, with the reason if that is
// another. address is that of the host's containerd, empty for one of our own.
func (c Choice) On(b Binaries, address string) (Choice, error) {
	if c != Resident {
		return Stock, nil
	}
	if why := residentFor(b, address != ""); why != nil {
		return Stock, fmt.Errorf("the resident runtime cannot be used: %w", why)
	}
	return Resident, nil
}

// fact says which runtime is active, and why it is not the other one.
func (c Choice) fact(b Binaries, foreign bool) Fact {
	why := residentFor(b, foreign)
	switch {
	case c == Resident && why == nil:
		return Fact{"runtime", "resident: one process makes all sandboxes"}
	case c == Resident:
		return Fact{"runtime", fmt.Sprintf("stock, the resident one cannot be used: %v", why)}
	case why == nil:
		return Fact{"runtime", "stock, a process for each sandbox; resident would cost less"}
	}
	return Fact{"runtime", fmt.Sprintf("stock, a process for each sandbox; the resident one could not be used: %v", why)}
}

// residentFor says why the resident runtime cannot be used, nil if it can.
func residentFor(b Binaries, foreign bool) error {
	switch {
	case foreign:
		return errors.New("the host's containerd does not start it")
	case b.Resident == "" || b.Front == "":
		return errors.New("sandlot-runtime and containerd-shim-sandlot-v1 are not installed (in a source tree: make build)")
	}
	if err := hasPrewarmer(b.Runsc); err != nil {
		return fmt.Errorf("it needs the prewarmer: %w", err)
	}
	if groups, err := openCgroups("", true); err == nil && groups.Unified() {
		return errors.New("it has not been shown to work with cgroups of version 2 yet")
	}
	return nil
}
