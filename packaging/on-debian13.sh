#!/bin/bash
# on-debian13.sh STEP [ARGUMENT...]: runs a step of steps.sh on Debian 13: on this host if it is one, else in a Debian 13
# root that is made once. `results` instead of a step brings what was built to this clone's target/, `clean` forgets it.
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "$0")")
# shellcheck source=packaging/lib.sh
source "$here/lib.sh"
umask 022
repo=$(dirname -- "$here")

# What people want to see of target/; all else stays where it was built.
results=(release/libvmod_powderhorn.so figures bench debian)

has_rust() {
    local version
    version=$(rustc --version 2>/dev/null | sed -nE 's/^rustc 1\.([0-9]+)\..*/\1/p')
    [[ -n $version ]] && ((version >= 85)) && cargo --version >/dev/null 2>&1
}

# Installs on a Debian 13 host what its list names. Debian's varnish package would start a service on port 6081, which
# nobody asked for; a policy that forbids starts stands for as long as the installation takes.
install_on_host() {
    local packages policy=/usr/sbin/policy-rc.d
    mapfile -t packages < <(sed -n "/^# Rust/q;/^#/d;p" "$here/root/packages")
    has_rust || mapfile -t -O "${#packages[@]}" packages < <(sed "1,/^# Rust/d" "$here/root/packages")
    if ((EUID == 0)) && [[ ! -e $policy ]] && ! command -v varnishd >/dev/null; then
        trap 'rm -f -- /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    host_install "${packages[@]}"
    [[ -z $(trap -p EXIT) ]] || rm -f -- "$policy"
    trap - EXIT
}

if is_debian13; then
    # What is built here lies in target/ already.
    [[ $1 != results ]] || exit 0
    if [[ $1 == clean ]]; then
        rm -rf -- "$repo/target"
        exit 0
    fi
    install_on_host
    exec "$here/steps.sh" "$@"
fi

# One root serves any number of clones, each in a folder named after its path.
inside=/src/powderhorn-$(printf %s "$repo" | sha256sum | cut -c 1-12)
if [[ $1 == clean ]]; then
    for path in "${results[@]}"; do
        rm -rf -- "$repo/target/$path"
    done
    # Nothing is made in order to be cleaned; and older roots have a folder of this clone, too.
    rm -rf --one-file-system -- "$cache"/trixie-*"$inside" "$cache"/trixie-*"$inside".lock
    exit 0
fi

root=$("$here/root/make-root.sh")
need_free "$root" 1024

if [[ $1 == results ]]; then
    for path in "${results[@]}"; do
        from=$root$inside/target/$path
        if [[ -e $from ]]; then
            mkdir -p "$(dirname -- "$repo/target/$path")"
            rsync -rlp -- "$from" "$(dirname -- "$repo/target/$path")/"
        fi
    done
    exit 0
fi

# Compared by content, and a changed file gets the time of this copy: with its own time, a file that was saved while a
# build ran would look older than that build, and cargo would not build it again. Varnish's children are other users: all may read.
exec 9>"$root$inside.lock"
flock 9
rsync -rlp --checksum --delete --chmod=u+rwX,go+rX,go-w --exclude=/.git --exclude=/target -- "$repo/" "$root$inside/"
exec 9>&-
inside_root=("$here/root/enter.sh" "$root" "$inside" packaging/steps.sh "$@")

# Only /proc says how much memory a process has, and how old it is. The root has none, so where that is measured or tested it is
# mounted where nobody else sees it, if this host lets it; without, what needs it is left out.
if [[ $1 == bench || $1 == sim || $1 == test ]] && unshare --mount mount -t proc proc "$root/proc" 2>/dev/null; then
    # shellcheck disable=SC2016 # The inner shell's own arguments.
    exec unshare --mount bash -c 'mount -t proc proc "$1" && shift && exec "$@"' bench "$root/proc" "${inside_root[@]}"
fi
exec "${inside_root[@]}"
