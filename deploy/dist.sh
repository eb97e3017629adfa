#!/usr/bin/env bash
# Packs what a user installs:
#
#   deploy/dist.sh VERSION [BIN_DIR [DIST_DIR]]
#
# gives DIST_DIR/sandlot-VERSION-linux-amd64.tar.gz and DIST_DIR/SHA256SUMS. In
# the archive: sandlot, what it starts (libexec), units, licences of everything
# compiled in, a CycloneDX SBOM per program, and a checksum of every file. The
# same binaries give the same archive, byte for byte.
set -euo pipefail

version=${1:?usage: dist.sh VERSION [BIN_DIR [DIST_DIR]]}
root=$(cd "$(dirname "$0")/.." && pwd)
bin=${2:-$root/bin}
dist=${3:-$root/dist}
name=sandlot-${version#v}-linux-$(go env GOARCH)
programs=(sandlot-agent containerd ctr nats-server runsc containerd-shim-runsc-v1 containerd-shim-sandlot-v1 sandlot-runtime gvisor-bin/gvisor-sentry-prewarmer)
sbom=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
# One time stamp for all files: that of the commit, where there is one.
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/$name
mkdir -p "$tree/libexec" "$tree/sbom" "$dist"

for program in sandlot "${programs[@]}"; do
	test -x "$bin/$program" || { echo "dist: $bin/$program is missing: run make build" >&2; exit 1; }
done
install -m 755 "$bin/sandlot" "$tree/sandlot"
for program in "${programs[@]}"; do
	install -D -m 755 "$bin/$program" "$tree/libexec/$program"
done
install -m 644 "$root/LICENSE" "$root/README.md" "$root/CHANGELOG.md" "$tree/"
mkdir "$tree/systemd" "$tree/nats"
cp "$root"/deploy/systemd/*.service "$tree/systemd/"
cp "$root/deploy/nats/nats.conf" "$tree/nats/"

echo "dist: licences"
(cd "$root" && go run ./deploy/licenses -out "$tree/licenses" "$tree/sandlot" "${programs[@]/#/$tree/libexec/}")

echo "dist: bills of materials"
for program in "$tree/sandlot" "${programs[@]/#/$tree/libexec/}"; do
	go run "$sbom" bin -json -std -noserial -notimestamp -version "$version" \
		-output "$tree/sbom/${program##*/}.cdx.json" "$program" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
done

echo "dist: archive"
chmod -R u=rwX,go=rX "$tree"
(cd "$tree" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner \
	-C "$work" -cf - "$name" | gzip -n >"$dist/$name.tar.gz"
(cd "$dist" && sha256sum "$name.tar.gz" >SHA256SUMS)
echo "dist: $dist/$name.tar.gz ($(du -h "$dist/$name.tar.gz" | cut -f1))"
