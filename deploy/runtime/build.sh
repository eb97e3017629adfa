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
		find . -name '*_test.go' -prune -o -type f -print | LC_ALL=C sort | xargs sha256sum)
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
		go build -v -trimpath -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$version" -o "$2/" ./cmd/...
		;;
	esac
}

# provide MODULE: builds what the cache has not, and copies it to BIN_DIR.
provide() {
	local hash dir new started=$SECONDS
	hash=$(inputs "$1" | sha256sum | cut -c1-20)
	dir=$cache/$hash
	if [ ! -d "$dir" ]; then
		echo "runtime: building $1 (once, about a minute or two)"
		mkdir -p "$cache"
		new=$(mktemp -d "$cache/new.XXXXXX")
		trap 'rm -rf "$new"' EXIT
		(compile "$1" "$new") 2>&1 | progress "$1"
		chmod 755 "$new" "$new"/*
		# Whoever is second to finish the same build uses the first one's.
		mv -T "$new" "$dir" 2>/dev/null || rm -rf "$new"
		trap - EXIT
		echo "runtime: built $1 in $((SECONDS - started)) s"
	fi
	local file
	for file in "$dir"/*; do
		cmp -s "$file" "$bin/${file##*/}" && continue
		cp "$file" "$bin/.${file##*/}.$$"
		mv "$bin/.${file##*/}.$$" "$bin/${file##*/}"
		echo "runtime: $bin/${file##*/}"
	done
}

mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
provide containerd
provide gvisor
