#!/usr/bin/env bash
# Checks that this host can build and run Sandlot. What is missing it installs
# where it may (Debian, root), or else names together with the command.
set -euo pipefail

missing=()
problems=()

need() { # need COMMAND PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

command -v go >/dev/null 2>&1 ||
	problems+=("go is not installed: get Go $(awk '/^go /{print $2}' go.mod) or later from https://go.dev/dl")
[ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] ||
	problems+=("sandboxes need Linux on x86_64, this is $(uname -s)/$(uname -m)")
[ "$(id -u)" = 0 ] ||
	problems+=("sandboxes are made by root: run this again with sudo")

need gcc gcc
need mmdebstrap mmdebstrap
need mkfs.erofs erofs-utils
need busybox busybox # tests of the agent outside of a sandbox
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)

if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "setup: installing ${missing[*]}"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	else
		problems+=("install these packages: ${missing[*]}")
	fi
fi

if [ ${#problems[@]} -gt 0 ]; then
	printf 'setup: %s\n' "${problems[@]}" >&2
	exit 1
fi
