// Command runsc is gVisor's OCI runtime, built from the pinned module, with
// its seccomp programs ready made.
package main

import (
	"gvisor.dev/gvisor/runsc/cli/maincli"
	"gvisor.dev/gvisor/runsc/version"

	_ "github.com/sandlot-dev/sandlot/deploy/runtime/gvisor/internal/filters"
)

// The linker keeps version.Version only if something refers to it.
var _ = version.Version()

func main() {
	maincli.Main()
}
