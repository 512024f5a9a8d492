#!/bin/sh
# Installs the C library: header, shared and static library, and a file for pkg-config.
#
# usage: runtime/capi/install.sh PREFIX [BUILT]
#
# In: the directory BUILT, in which cargo has built the libraries; without it they are built here, as a release. Out: PREFIX/include and
# PREFIX/lib, which may be moved. Refused: a directory without the libraries.
set -eu
fail() { echo "install.sh: $1" >&2; exit 1; }
[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: runtime/capi/install.sh PREFIX [BUILT]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
built=${2:-${CARGO_TARGET_DIR:-$root/target}/release}
if [ $# = 1 ]; then
    (cd "$root" && cargo build --release --locked --package edge-run-capi)
fi
for library in libedge_run_c.so libedge_run_c.a; do
    [ -f "$built/$library" ] || fail "$built: expected $library, found none; cargo build --package edge-run-capi makes it"
done

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
abi=$(sed -n 's/^#define EDGE_RUN_ABI_VERSION //p' "$here/include/edge_run.h")

# Under a temporary name first: a program that starts meanwhile finds the old file or the new one.
put() {
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new$$"
    chmod 644 "$2.new$$"
    mv -f "$2.new$$" "$2"
}
put "$here/include/edge_run.h" "$1/include/edge_run.h"
put "$built/libedge_run_c.a" "$1/lib/libedge_run.a"
put "$built/libedge_run_c.so" "$1/lib/libedge_run.so.$abi"
ln -sf "libedge_run.so.$abi" "$1/lib/libedge_run.so"
mkdir -p "$1/lib/pkgconfig"
sed "s/@VERSION@/$version/" "$here/edge_run.pc.in" > "$1/lib/pkgconfig/edge_run.pc.new$$"
mv -f "$1/lib/pkgconfig/edge_run.pc.new$$" "$1/lib/pkgconfig/edge_run.pc"
