#!/bin/bash
# steps.sh STEP: what the Makefile's targets do, once on Debian 13. Called by on-debian13.sh.
# It needs no /proc, which the root has not got: so no /dev/stderr and no process substitution here.
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "$0")")
# shellcheck source=packaging/lib.sh
source "$here/lib.sh"
cd -- "$here/.."
umask 022

target=${CARGO_TARGET_DIR:-$PWD/target}

# Downloads the crates that Cargo.lock names if any is missing; everything after this is offline.
fetch() {
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    if ! cargo fetch --quiet --locked --offline --target "$host" 2>/dev/null; then
        say "fetching the crates that Cargo.lock names"
        cargo fetch --quiet --locked --target "$host" || die "could not fetch the crates that Cargo.lock names (no network, or Cargo.lock is not up to date: see above)"
    fi
    export CARGO_NET_OFFLINE=true
}

build_vmod() {
    cargo build --release --locked --package vmod_powderhorn --lib
}

# The cache process runs as another user and must reach the VMOD, also when this clone lies in somebody's closed home.
publish_vmod() {
    export POWDERHORN_VMOD=$1/release/libvmod_powderhorn.so
}

# cargo-clippy finds its driver by /proc/self/exe; these two variables are all that it would set.
clippy() {
    RUSTC_WORKSPACE_WRAPPER=$(command -v clippy-driver) CLIPPY_ARGS='-Dwarnings__CLIPPY_HACKERY__' \
        cargo check --locked --workspace --all-targets
}

case $1 in
    build)
        fetch
        build_vmod
        ;;
    test)
        fetch
        build_vmod
        publish_vmod "$target"
        exec cargo test --release --locked --workspace
        ;;
    lint)
        cargo fmt --all --check
        fetch
        clippy
        ;;
    *) die "no such step: $1" ;;
esac
