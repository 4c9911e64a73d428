#!/bin/bash
# make-root.sh [node]: makes the Debian 13 root in the user's cache folder, unless it is there already, and prints its path:
# the one in which everything is built, or a plain Debian 13 with Varnish, as a cache node is before our package comes.
#
# No mount, no namespace and no device but those that mknod makes: a plain container's root account may do all of it.
# The root appears under its name only when it is whole, so whatever interrupts this script costs a new start, not a broken root.
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "$0")")
# shellcheck source=packaging/lib.sh
source "$here/../lib.sh"
umask 022

# Raise it when this script changes what is inside the root; the list of packages counts by itself.
recipe=1

case ${1:-} in
    '') list=packages kind='' room=6144 skip='' ;;
    # With its package lists, as a host has them.
    node) list=node-packages kind=node- room=2048 skip=,cleanup/apt/lists ;;
    *) die "no such root: $1" ;;
esac
key=$({ echo "$recipe"; cat "$here/$list"; } | sha256sum | cut -c 1-12)
root=$cache/trixie-$kind$key

# The marker is written last, and the files are those whose loss a clean-up of the cache folder would cause first.
is_whole() {
    [[ -f $root/etc/powderhorn-root && -x $root/usr/sbin/varnishd && -c $root/dev/null ]] \
        && [[ -n $kind || -x $root/usr/bin/cargo ]]
}

# Deletes a root, but never what somebody mounted into it: a bind mount of a home folder is a folder like any other to rm.
remove_root() {
    if grep -qF " $1/" /proc/self/mountinfo 2>/dev/null; then
        die "something is mounted below $1: unmount it, then try again"
    fi
    rm -rf --one-file-system -- "$1"
}

# Mirrors to try: the user's choice alone, or this host's own one (often the near one, or the only one a firewall lets through) and then Debian's.
mirrors() {
    if [[ -n ${POWDERHORN_MIRROR:-} ]]; then
        echo "${POWDERHORN_MIRROR%/}"
        return
    fi
    {
        # shellcheck disable=SC2016 # apt fills in the fields.
        apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null \
            | grep -E '^https?://.*/debian/?$' | sed 's,/$,,'
        echo http://deb.debian.org/debian
    } | awk '!seen[$0]++'
}

choose_mirror() {
    local mirror probe
    probe=$(mktemp -d)
    while read -r mirror; do
        if /usr/lib/apt/apt-helper -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 \
            download-file "$mirror/dists/trixie/InRelease" "$probe/InRelease" >/dev/null 2>&1; then
            rm -rf -- "$probe"
            echo "$mirror"
            return
        fi
    done < <(mirrors)
    rm -rf -- "$probe"
    die "no network: could not fetch Debian 13 from $(mirrors | paste -s -d ' '); it is needed once; POWDERHORN_MIRROR names another mirror"
}

explain_failure() {
    local log=$1
    if grep -qi 'no space left' "$log"; then
        die "disk full while making $root"
    elif grep -qE 'NO_PUBKEY|not signed|no suitable signing key' "$log"; then
        die "this host's debian-archive-keyring is too old to know Debian 13's signatures: upgrade that package"
    elif grep -qE 'Could not resolve|Temporary failure|Could not connect|Failed to fetch' "$log"; then
        die "the network failed while fetching Debian 13 (try again): $(grep -m 1 '^E:' "$log" || true) (all of it: $log)"
    fi
    die "could not make the Debian 13 root: $(grep -E '^E:' "$log" | tail -n 1) (all of it: $log)"
}

# Asked before the minute's work, which would end in a line that explains less.
check_privileges() {
    local probe=$cache/probe
    chroot / /bin/true 2>/dev/null \
        || die "no right to chroot (CAP_SYS_CHROOT): give the container Docker's default capabilities, or run this on Debian 13"
    rm -f -- "$probe"
    mknod "$probe" c 1 3 2>/dev/null \
        || die "no right to make device nodes (CAP_MKNOD): give the container Docker's default capabilities, or run this on Debian 13"
    (: <"$probe") 2>/dev/null \
        || die "$cache is mounted nodev, and the Debian 13 root needs /dev/null: XDG_CACHE_HOME moves the cache to another disk"
    rm -f -- "$probe"
}

make_root() {
    local packages mirror log=$root.log new=$root.new
    case $(dpkg --print-architecture) in
        amd64 | arm64) ;;
        *) die "wrong architecture: Powderhorn builds on amd64 and arm64, not on $(dpkg --print-architecture)" ;;
    esac
    check_privileges
    # The root itself, and one clone's build of everything or a few copies of it.
    need_free "$cache" "$room"
    host_install mmdebstrap rsync debian-archive-keyring
    mirror=$(choose_mirror)
    packages=$(grep -v '^#' "$here/$list" | paste -s -d ,)

    remove_root "$new"
    remove_root "$root"
    say "making a Debian 13 root in $root (once; 1 to 3 minutes, from $mirror)"
    local started=$SECONDS
    # check/empty and the mount hooks are skipped because mmdebstrap would warn about each; it makes the device nodes itself.
    # Its temporary files go beside the root: /tmp may be small.
    if ! mmdebstrap --mode=root --variant=minbase --include="$packages" \
        --skip="check/canmount,chroot/mount$skip" trixie "$new" "$mirror" </dev/null >"$log" 2>&1; then
        remove_root "$new"
        explain_failure "$log"
    fi

    # Nothing mounts /proc, but rustfmt's parser asks libc for the bounds of the main thread's stack, and libc reads them
    # here. One line that covers the address space lets the stack limit decide. A real /proc would hide this file.
    mkdir -p "$new/proc/self"
    echo '000000000000-7fffffffffff rw-p 00000000 00:00 0 [stack]' >"$new/proc/self/maps"
    mkdir -p "$new/src"
    printf 'recipe %s\npackages %s\n' "$recipe" "$packages" >"$new/etc/powderhorn-root"
    mv -T -- "$new" "$root"
    say "made the Debian 13 root in $((SECONDS - started)) s"
}

((EUID == 0)) || die "not root: this runs in a Debian 13 root by chroot, which only root may do (sudo make ...)"
mkdir -p "$cache"
if ! is_whole; then
    command -v apt-get >/dev/null || die "no apt-get: the Debian 13 root is made with apt, so the host must be a Debian or an Ubuntu"
    # One maker at a time, whatever the number of clones; who waits finds the root made.
    exec 9>"$cache/lock"
    if ! flock -n 9; then
        say "waiting for another make that is making the Debian 13 root"
        flock 9
    fi
    is_whole || make_root
    exec 9>&-
fi
command -v rsync >/dev/null || host_install rsync
chroot "$root" /bin/true 2>/dev/null || die "no right to chroot (CAP_SYS_CHROOT), which a plain container's root has: run as such, or on Debian 13"
printf '%s\n' "$root"
