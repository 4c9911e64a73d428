#!/bin/bash
# deb.sh build|check TARGET: makes the Debian package in TARGET/debian, or checks the one that is there: lintian has nothing to say,
# and a second build in another folder gives the same bytes. Called by steps.sh, on Debian 13.
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "$0")")
# shellcheck source=packaging/lib.sh
source "$here/lib.sh"
repo=$(readlink -f -- "$here/..")
action=$1 target=$2
cd -- "$repo"

version=$(sed -nE '1s/^powderhorn \(([^)]*)\).*/\1/p' packaging/debian/changelog)
upstream=$(sed -nE '/^\[workspace.package\]/,/^$/s/^version = "(.*)"/\1/p' Cargo.toml)
[[ ${version%-*} == "$upstream" ]] || die "packaging/debian/changelog is about $version, Cargo.toml about $upstream"

# The crates as Cargo.lock names them, for all platforms: a lock file cannot be cut to one. The first time takes the network.
vendor() {
    local lock log=$target/package/vendor.log
    lock=$(sha256sum Cargo.lock)
    [[ "$(cat "$target/package/vendor.lock" 2>/dev/null)" != "$lock" ]] || return 0
    rm -rf -- "$target/package/vendor"
    mkdir -p "$target/package"
    say "gathering the crates that Cargo.lock names"
    if ! cargo vendor --locked --versioned-dirs --offline "$target/package/vendor" >"$target/package/config.toml" 2>"$log" \
        && ! CARGO_NET_OFFLINE=false cargo vendor --locked --versioned-dirs "$target/package/vendor" >"$target/package/config.toml" 2>"$log"; then
        die "could not gather the crates (no network? it is needed once): $(tail -n 1 "$log") (all of it: $log)"
    fi
    sed -i 's,^directory = .*,directory = "vendor",' "$target/package/config.toml"
    printf '%s' "$lock" >"$target/package/vendor.lock"
}

# package FOLDER: builds in FOLDER/powderhorn-VERSION; the packages are in FOLDER then. What an earlier build there left is used again.
package() {
    local tree=$1/powderhorn-$upstream log=$1/build.log
    mkdir -p "$tree/.cargo"
    rm -f -- "$1"/*.deb "$1"/*.changes "$1"/*.buildinfo
    # By content and with the time of this copy, as on-debian13.sh does it, so that cargo sees what changed.
    rsync -rlp --checksum --delete --chmod=u+rwX,go+rX,go-w --exclude=/.git --exclude=/target --exclude=/debian --exclude=/vendor \
        --exclude=/.cargo "$repo/" "$tree/"
    rsync -a --delete --link-dest="$target/package/vendor/" "$target/package/vendor/" "$tree/vendor/"
    cmp -s "$target/package/config.toml" "$tree/.cargo/config.toml" || cp -- "$target/package/config.toml" "$tree/.cargo/config.toml"
    rm -rf -- "$tree/debian"
    cp -r -- packaging/debian "$tree/debian"
    packaging/copyright.sh "$target/package/vendor" >"$tree/debian/copyright"
    chmod +x "$tree/debian/rules"
    say "building the package in $tree"
    # The shell's own environment stays outside: the same package for everybody.
    if ! (cd -- "$tree" && "${without_network[@]}" env -i HOME=/nonexistent PATH="$PATH" LC_ALL=C.UTF-8 TMPDIR="${TMPDIR:-/tmp}" \
        ${CARGO_BUILD_JOBS:+CARGO_BUILD_JOBS="$CARGO_BUILD_JOBS"} dpkg-buildpackage --build=binary --no-sign) </dev/null >"$log" 2>&1; then
        tail -n 30 -- "$log" >&2
        die "the package does not build (all of it: $log)"
    fi
}

# The build has no network, by a namespace of its own where this account may make one; else by cargo's word alone.
without_network=(unshare --net)
if ! unshare --net true 2>/dev/null; then
    without_network=()
    say "no right to make a network namespace: that the build needs no network is not shown, only asked of cargo"
fi

case $action in
    build)
        vendor
        package "$target/package/first"
        rm -rf -- "$target/debian"
        mkdir -p "$target/debian"
        cp -- "$target/package/first"/*.deb "$target/package/first"/*.changes "$target/package/first"/*.buildinfo "$target/debian/"
        say "made $(cd -- "$target/debian" && echo *.deb)"
        ;;
    check)
        vendor
        lintian --allow-root --fail-on error,warning --info --display-info "$target/debian"/*.changes \
            || die "lintian has something to say about the package"
        again=$target/package/second/in-a-folder/of-another-name
        # From nothing: what cargo left there might be a copy of the first.
        rm -rf -- "$target/package/second"
        package "$again"
        for file in "$target/debian"/*.deb; do
            cmp -- "$file" "$again/${file##*/}" || die "built twice, ${file##*/} is not the same: diffoscope $file $again/${file##*/}"
            say "built twice in two folders, the same: $(sha256sum "$file" | cut -c 1-16) ${file##*/}"
        done
        ;;
    *) die "no such action: $action" ;;
esac
