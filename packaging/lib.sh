# Sourced by the scripts beside it. Every message is one line, on stderr, so that stdout stays the tool's own.
# shellcheck shell=bash

say() { printf 'powderhorn: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Where the Debian 13 roots are, one for each version of the recipe that this user has met.
# shellcheck disable=SC2034 # Used by those who source this.
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/powderhorn

is_debian13() {
    # A subshell, because os-release sets variables of common names.
    # shellcheck disable=SC1091
    (. /etc/os-release 2>/dev/null && [[ ${ID:-} == debian && ${VERSION_ID:-} == 13 ]])
}

# need_free DIR MIB: stops when the file system of DIR has less room than that.
need_free() {
    local free
    free=$(df --output=avail -m -- "$1" | tail -n 1 | tr -d ' ')
    ((free >= $2)) || die "disk full: $1 has $free MiB free, $2 MiB are needed; XDG_CACHE_HOME moves the cache to another disk"
}

# host_install PACKAGE...: installs what this host lacks of them; a no-op, without network, when all are there.
host_install() {
    local package log missing=()
    for package; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "this host has no apt-get: install by hand: ${missing[*]}"
    ((EUID == 0)) || die "missing packages, and only root can install them: apt-get install ${missing[*]}"
    say "installing on this host: ${missing[*]}"
    log=$(mktemp)
    # The package lists of a fresh image are empty, or too old to name files that still exist: update only then.
    if ! apt_install "${missing[@]}" >"$log" 2>&1 \
        && ! { apt-get update -q >>"$log" 2>&1 && apt_install "${missing[@]}" >>"$log" 2>&1; }; then
        die "could not install ${missing[*]} (no network?): $(grep -m 1 '^E:' "$log" || true) (all of it: $log)"
    fi
    rm -f "$log"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" </dev/null
}
