#!/usr/bin/env bash
# Checks the units with systemd-analyze, on a host where nothing is installed:
#
#   deploy/systemd/verify.sh BIN_DIR
#
# systemd-analyze insists that what a unit starts exists, so it is given a root
# of its own with the programs of BIN_DIR in place. systemd need not run.
set -euo pipefail

bin=$(cd "${1:?usage: verify.sh BIN_DIR}" && pwd)
units=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,etc/systemd/system,usr/lib/systemd,usr/local/bin,usr/local/libexec/sandlot}
cp -r /lib/systemd/system "$root/usr/lib/systemd/"
cp /bin/kill "$root/bin/"
ln "$bin/sandlot" "$root/usr/local/bin/" 2>/dev/null || cp "$bin/sandlot" "$root/usr/local/bin/"
ln "$bin/nats-server" "$root/usr/local/libexec/sandlot/" 2>/dev/null || cp "$bin/nats-server" "$root/usr/local/libexec/sandlot/"
cp "$units"/*.service "$root/etc/systemd/system/"
status=0
for unit in "$units"/*.service; do
	answer=$(systemd-analyze verify --root="$root" "/etc/systemd/system/${unit##*/}" 2>&1) || status=1
	if [ -n "$answer" ]; then
		echo "$answer"
		status=1
	fi
	echo "units: ${unit##*/} checked"
done
exit $status
