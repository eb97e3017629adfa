// Command runsc is gVisor's OCI runtime, built from the pinned module.
package main

import (
	"gvisor.dev/gvisor/runsc/cli/maincli"
	"gvisor.dev/gvisor/runsc/version"
)

// The linker keeps version.Version only if something refers to it.
var _ = version.Version()

func main() {
	maincli.Main()
}
