#!/usr/bin/env bash
# Builds the runtime (containerd, ctr, nats-server, runsc, its containerd shim)
# from the two pinned Go modules beside this script, static, into BIN_DIR:
#
#   deploy/runtime/build.sh BIN_DIR
#
# What was built is kept under $XDG_CACHE_HOME/sandlot/runtime by a hash of
# everything that goes into it, so a second build, also in another clone, only
# copies. Nothing is downloaded but Go modules.
set -euo pipefail

bin=${1:?usage: build.sh BIN_DIR}
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sandlot/runtime
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off

# inputs MODULE: everything that decides what a build of MODULE gives.
inputs() {
	(cd "$here/$1" && go version && go env GOOS GOARCH GOAMD64 &&
		find . \( -name '*_test.go' -o -path ./internal/filters/programs.go \) -prune -o -type f -print | LC_ALL=C sort | xargs sha256sum)
	sha256sum <"$here/build.sh"
}

# progress NAME: turns the names that go build -v prints into a line now and then.
progress() {
	awk -v name="$1" '
		/^[^# \t]+$/ { if (++n % 100 == 0) printf "runtime: %s: %d packages\n", name, n; fflush(); next }
		{ print; fflush() }'
}

# compile MODULE DIR: builds a module's binaries into DIR.
compile() {
	cd "$here/$1"
	case $1 in
	containerd)
		go build -v -trimpath -ldflags '-s -w' -o "$2/" tool
		;;
	gvisor)
		local version
		version=$(go list -m -f '{{.Version}}' gvisor.dev/gvisor)
		# gVisor's seccomp programs, ready made: see internal/filters.
		go run ./internal/filters/generate >"$2/programs.go"
		mv "$2/programs.go" internal/filters/programs.go
		go build -v -trimpath -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$version" -o "$2/" ./cmd/...
		# Their names are in the binary only if the linker took them in.
		grep -aq 'Platform="systrap" HostNetwork=false' "$2/runsc" || { echo "runtime: runsc lacks its seccomp programs" >&2; exit 1; }
		# runsc looks for its helpers in a directory beside itself.
		mkdir "$2/gvisor-bin"
		mv "$2/gvisor-sentry-prewarmer" "$2/gvisor-bin/"
		;;
	esac
}

# provide MODULE: builds what the cache has not, and copies it to BIN_DIR.
provide() {
	local hash dir new started=$SECONDS
	hash=$(inputs "$1" | sha256sum | cut -c1-20)
	dir=$cache/$hash
	mkdir -p "$cache"
	# Who comes while it is being built, in another clone, waits for it.
	exec 9>"$cache/$1.lock"
	flock 9
	if [ ! -d "$dir" ]; then
		echo "runtime: building $1 (once, about a minute or two)"
		new=$(mktemp -d "$cache/new.XXXXXX")
		trap 'rm -rf "$new"' EXIT
		(compile "$1" "$new") 2>&1 9>&- | progress "$1"
		chmod -R 755 "$new"
		mv -T "$new" "$dir"
		trap - EXIT
		echo "runtime: built $1 in $((SECONDS - started)) s"
	fi
	exec 9>&-
	local file
	(cd "$dir" && find . -type f -printf '%P\n') | while read -r file; do
		cmp -s "$dir/$file" "$bin/$file" && continue
		mkdir -p "$(dirname "$bin/$file")"
		cp "$dir/$file" "$bin/$file.$$"
		mv "$bin/$file.$$" "$bin/$file"
		echo "runtime: $bin/$file"
	done
}

mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
provide containerd
provide gvisor
