// Package filters gives the sentry and the gofer their seccomp programs ready
// made.
//
// gVisor compiles the filter that each of these processes locks itself into at
// every start of a sandbox, about 12 ms of processor time, unless it finds the
// program among its precompiled ones. Its release builds have those; a build
// from the Go module has none. Command generate writes the programs that we
// run with to programs.go beside this file, which deploy/runtime/build.sh does
// before it compiles; without that file gVisor compiles them as ever.
package filters

import (
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	sentry "gvisor.dev/gvisor/runsc/boot/filter"
	gofer "gvisor.dev/gvisor/runsc/fsgofer/filter"
)

// gVisor's own tables.
var (
	//go:linkname sentryPrograms gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
	sentryPrograms map[string]precompiledseccomp.Program
	//go:linkname goferPrograms gvisor.dev/gvisor/runsc/fsgofer/filter.precompiledPrograms
	goferPrograms map[string]precompiledseccomp.Program
)

// addSentry puts programs into the sentry's table. Asking for the list first
// spends the once by which the table would be emptied later.
func addSentry(all ...precompiledseccomp.Program) {
	sentry.ListPrecompiled()
	for _, p := range all {
		sentryPrograms[p.Name] = p
	}
}

// addGofer does the same for the gofer.
func addGofer(all ...precompiledseccomp.Program) {
	gofer.ListPrecompiled()
	for _, p := range all {
		goferPrograms[p.Name] = p
	}
}
