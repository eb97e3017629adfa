# Turns unpacked Debian packages, whose maintainer scripts never ran, into a
# root file system. Runs as root of a gVisor sandbox whose root directory is
# the tree itself; the shell and every tool here are the tree's own busybox.
# LINKS holds "path target" lines, POST the recipe's last steps.
set -eu
b=/usr/bin/busybox

# Tools: a link to busybox for each applet that no package brought.
$b --list-full | while read -r applet; do
	name=${applet##*/}
	case $applet in
	*sbin/*) dir=/usr/sbin ;;
	*) dir=/usr/bin ;;
	esac
	[ "$name" = busybox ] || [ -e "/usr/bin/$name" ] || [ -e "/usr/sbin/$name" ] ||
		$b ln -s $b "$dir/$name"
done

# Users and names. Nothing of the builder's network.
cat >/etc/passwd <<-END
	root:x:0:0:root:/root:/bin/sh
	sandlot:x:1000:1000:sandlot:/home/sandlot:/bin/sh
	nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
END
cat >/etc/group <<-END
	root:x:0:
	tty:x:5:
	sandlot:x:1000:
	nogroup:x:65534:
END
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n' >/etc/hosts
printf 'passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n' >/etc/nsswitch.conf
rm -f /etc/resolv.conf /etc/hostname /etc/fstab

# What the packages' alternatives would have linked.
printf '%s' "$LINKS" | while read -r path target; do
	[ -e "$path" ] || ln -s "$target" "$path"
done

# Libraries that live in a directory of their own, then the loader's cache.
for lib in blas lapack; do
	dir=/usr/lib/x86_64-linux-gnu/$lib
	[ ! -d $dir ] || echo $dir >/etc/ld.so.conf.d/$lib.conf
done
if [ -x /usr/sbin/ldconfig ] && [ ! -L /usr/sbin/ldconfig ]; then
	ldconfig
fi

# Certificates, for images that have the package.
if [ -d /usr/share/ca-certificates/mozilla ]; then
	mkdir -p /etc/ssl/certs
	cat /usr/share/ca-certificates/mozilla/*.crt >/etc/ssl/certs/ca-certificates.crt
fi

eval "$POST"

# What a sandbox has no use for. Licences stay.
rm -rf /etc/apt /etc/dpkg /etc/alternatives /etc/cron* /etc/logrotate.d /etc/init.d \
	/var/lib/apt /var/lib/dpkg /var/cache /var/log \
	/usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/bug /usr/share/doc-base
if [ -d /usr/share/doc ]; then
	find /usr/share/doc -mindepth 2 ! -type d ! -name copyright -exec rm -f {} +
	find /usr/share/doc -depth -mindepth 1 -type d -exec rmdir {} + 2>/dev/null || true
fi
mkdir -p /var/cache /var/log /var/lib
