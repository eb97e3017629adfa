#!/usr/bin/env bash
# Installs the servers of the peers where they are missing: Debian's
# PostgreSQL and Redis. They are not started; the benchmark runs its own, with
# their data in a directory of its own, on loopback.
set -euo pipefail

missing=()
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
command -v redis-server >/dev/null 2>&1 || missing+=(redis-server)
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "bench-queue: install these packages: ${missing[*]}" >&2
	exit 1
fi
echo "bench-queue: installing ${missing[*]}"
# Debian's way to say that no service is to be started.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
