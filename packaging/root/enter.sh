#!/bin/bash
# enter.sh ROOT DIR COMMAND...: becomes COMMAND inside ROOT, in DIR, with a small environment of its own.
# It execs, so that the terminal, its signals and the exit status are the command's.
set -euo pipefail
root=$1 dir=$2
shift 2

# The network's files may have changed since the root was made. A host's own certificates (a company's proxy) count too.
# Replaced by a rename, because another make may be reading them.
copy_in() {
    [[ -r $1 ]] && ! cmp -s -- "$1" "$root$2" || return 0
    cp -L -- "$1" "$root$2.$$"
    mv -f -- "$root$2.$$" "$root$2"
}
copy_in /etc/resolv.conf /etc/resolv.conf
copy_in /etc/hosts /etc/hosts
copy_in "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" /etc/ssl/certs/ca-certificates.crt

environment=(
    HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SHELL=/bin/bash TMPDIR=/tmp
    # Lets the demo say how to reach its varnishds from outside.
    POWDERHORN_CHROOT="$root"
)
while IFS= read -r name; do
    case $name in
        POWDERHORN_CHROOT | POWDERHORN_VMOD) ;;
        CI | TERM | NO_COLOR | RUST_BACKTRACE | RUST_LOG | POWDERHORN_* | PROPTEST_* | CARGO_NET_* | CARGO_TERM_* | CARGO_BUILD_JOBS | \
            http_proxy | https_proxy | all_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | ALL_PROXY | NO_PROXY)
            environment+=("$name=${!name}")
            ;;
    esac
done < <(compgen -e)

exec chroot "$root" /usr/bin/env -i --chdir="$dir" "${environment[@]}" "$@"
