#!/bin/bash
# steps.sh STEP [ARGUMENT...]: what the Makefile's targets do, once on Debian 13. Called by on-debian13.sh.
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
    local host errors
    host=$(rustc -vV | sed -n 's/^host: //p')
    if ! cargo fetch --quiet --locked --offline --target "$host" 2>/dev/null; then
        say "fetching the crates that Cargo.lock names"
        if ! errors=$(cargo fetch --quiet --locked --target "$host" 2>&1); then
            [[ $errors != *"needs to be updated"* ]] || die "Cargo.lock does not fit a Cargo.toml that was changed: run cargo update --workspace"
            printf '%s\n' "$errors" >&2
            die "could not fetch the crates that Cargo.lock names (no network? see above)"
        fi
    fi
    export CARGO_NET_OFFLINE=true
}

# One profile for all: the fleet's tests are too slow without optimisation, and two profiles compile everything twice.
build() {
    cargo build --release --locked --workspace "$@"
}

# Shows the demo with the VMOD of a target folder, in this process: the terminal and its signals are the demo's.
demo() {
    export POWDERHORN_VMOD=$1/release/libvmod_powderhorn.so
    exec "$target/release/powderhorn-demo"
}

# A demo that cannot fail proves nothing. The same deps serve both builds, so they are copied and not compiled twice.
canary() {
    local log=$target/canary/demo.log
    rm -rf -- "$target/canary"
    mkdir -p "$target/canary"
    cp -a -- "$target/release" "$target/canary/"
    build --features vmod_powderhorn/canary-no-apply --target-dir "$target/canary"
    if (demo "$target/canary") <&- >"$log" 2>&1; then
        die "canary: the demo passes with a VMOD that applies nothing: $log"
    fi
    grep -q 'not purged' "$log" || die "canary: the demo failed, but not for want of purges: $(tail -n 1 "$log") ($log)"
    say "canary: with a VMOD that applies nothing the demo fails, as it must: $(grep -m 1 'not purged' "$log")"
    rm -rf -- "$target/canary/release"
}

# cargo-clippy finds its driver by /proc/self/exe; these two variables are all that it would set. In the build's profile, so
# that build scripts and macros are compiled for both at once.
clippy() {
    local driver
    driver=$(command -v clippy-driver) || die "clippy is missing (rustup component add clippy)"
    RUSTC_WORKSPACE_WRAPPER=$driver CLIPPY_ARGS='-Dwarnings__CLIPPY_HACKERY__' \
        cargo check --release --locked --workspace --all-targets --keep-going
}

case $1 in
    build)
        fetch
        build --lib --bins
        ;;
    test)
        fetch
        export POWDERHORN_VMOD=$target/release/libvmod_powderhorn.so
        # All that fails is to be seen at once: a round of CI takes long.
        exec cargo test --release --locked --workspace --no-fail-fast
        ;;
    bench)
        # Results go where on-debian13.sh looks for them; an --out of the caller's comes later and wins.
        export POWDERHORN_VMOD=$target/release/libvmod_powderhorn.so
        exec "$target/release/powderhorn-bench" "$2" --out "$target/bench" "${@:3}"
        ;;
    sim)
        exec "$target/release/powderhorn-sim" figures --out "$target/figures" "${@:2}"
        ;;
    lint)
        shellcheck -x packaging/*.sh packaging/root/*.sh packaging/node/* packaging/debian/tests/smoke .ci/run
        cargo fmt --all --check
        fetch
        clippy
        ;;
    deb)
        fetch
        "$here/deb.sh" build "$target"
        ;;
    check-deb)
        fetch
        "$here/deb.sh" check "$target"
        ;;
    demo)
        demo "$target"
        ;;
    canary)
        fetch
        canary
        ;;
    shell)
        exec bash "${@:2}"
        ;;
    *) die "no such step: $1" ;;
esac
