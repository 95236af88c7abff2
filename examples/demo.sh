#!/bin/sh
# The first run, from a bare Debian or Ubuntu machine with rustup: installs a linker if there is none, fetches a real program
# (Debian's static busybox, as it is), and runs it alone in a virtual machine. The rest (QEMU, the kernel's Rust target) `run-snp` gets itself.
set -eu
cd "$(dirname "$0")/.."

as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cc >/dev/null; then
    echo "demo: installing gcc, which Rust links with" >&2
    $as_root apt-get -qq update
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends gcc libc6-dev >/dev/null
fi
demo=target/demo
if [ ! -x $demo/bin/busybox ]; then
    echo "demo: fetching busybox-static from the distribution" >&2
    mkdir -p $demo
    (cd $demo && { apt-get -q download busybox-static >/dev/null 2>&1 || { $as_root apt-get -qq update && apt-get -q download busybox-static >/dev/null; }; })
    dpkg-deb -x $demo/busybox-static_*.deb $demo
    [ -x $demo/bin/busybox ] || { mkdir -p $demo/bin && cp $demo/usr/bin/busybox $demo/bin/; }
fi
exec cargo xtask run-snp $demo/bin/busybox sh -c '
echo "This is ring 3 of a machine that holds one kernel and one program:"
read -r _ _ version rest < /proc/version
echo "  kernel   $version"
while read -r key value unit; do
    case $key in MemTotal:) echo "  memory   $value $unit" ;; esac
done < /proc/meminfo
echo "  pid      $$"
echo "  files    " /*
echo written > /tmp/note; read -r note < /tmp/note
echo "  /tmp     $note"
i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done
echo "  counted  $i"
'
