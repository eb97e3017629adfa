// Command containerd-shim-runsc-v1 is gVisor's containerd shim for hosts that
// Sandlot runs on. It is gVisor's own task service behind our start and our
// settings:
//
//   - it leaves oom_score_adj alone, which not every host allows to lower;
//   - the socket lives where containerd says in its bootstrap message, not
//     below a constant path;
//   - no configuration file of the host is read. A task without runtime
//     options of its own takes those of the file named by
//     SANDLOT_RUNSC_CONFIG, which containerd's configuration passes on;
//   - it ends, sandbox and all, with the process named by SANDLOT_OWNER.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/pkg/shim"
)

// configEnv names the TOML file with the options of runsc (root, binary_name,
// runsc_config) for tasks that bring none.
const configEnv = "SANDLOT_RUNSC_CONFIG"

const runtimeName = "io.containerd.runsc.v1"

func main() {
	// First of all: a shim whose containerd has just been killed waits for ever
	// for somebody to read its log, before it would serve anything.
	if err := endWithOwner(os.Getenv(ownerEnv)); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", runtimeName, err)
		os.Exit(1)
	}
	registerTaskService(os.Getenv(configEnv))
	shim.Run(context.Background(), &manager{name: runtimeName, stdin: os.Stdin})
}
