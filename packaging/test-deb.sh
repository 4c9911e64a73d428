#!/bin/bash
# test-deb.sh FOLDER: does with the package in FOLDER what operators do. Three Debian 13 roots stand for three nodes: in them
# docs/GETTING-STARTED.md is followed word for word, then the package is upgraded, removed and purged, and nothing may be left. A root is
# not a machine, so the nodes share the network of this host, each with an address of its own on loopback.
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "$0")")
# shellcheck source=packaging/lib.sh
source "$here/lib.sh"
umask 022
repo=$(dirname -- "$here")
package=$(echo "$1"/varnish-powderhorn_*.deb)
[[ -f $package ]] || die "no package, or more than one, in $1: make deb"

base=$("$here/root/make-root.sh" node)
need_free "$cache" 2560
work=$(mktemp -d "$cache/test-deb.XXXXXX")
# The document's addresses, on loopback: 192.0.2.11 is 127.0.2.11.
first=127.0.2.11 second=127.0.2.12 third=127.0.2.13 origin=127.0.2.80
nodes=("$first" "$second" "$third")
root_of() {
    # The others' roots are folders of the first's, so that its ssh gets there.
    if [[ $1 == "$first" ]]; then echo "$work"; else echo "$work/srv/nodes/$1"; fi
}

# on ADDRESS COMMAND...: on that node. Only its files are its own.
on() {
    local root
    root=$(root_of "$1")
    chroot "$root" /usr/bin/env -i --chdir=/root HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive no_proxy='*' \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${@:2}" </dev/null
}

finish() {
    local pid_file pid
    for address in "${nodes[@]}"; do
        for pid_file in "$(root_of "$address")"/run/{varnishd,origin}.pid; do
            [[ -s $pid_file ]] || continue
            pid=$(cat "$pid_file")
            kill "$pid" 2>/dev/null || true
            # Its files are about to go.
            for ((i = 0; i < 100; i++)); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.1
            done
            kill -KILL "$pid" 2>/dev/null || true
        done
    done
    rm -rf --one-file-system -- "$work"
}
trap finish EXIT
fail() {
    tail -n 20 "$work"/var/log/varnishd.log "$work"/srv/nodes/*/var/log/varnishd.log >&2 2>/dev/null || true
    die "test-deb: $*"
}

make_node() {
    local root address=$1
    root=$(root_of "$address")
    mkdir -p "$root"
    # --reflink costs nothing where the file system can do it.
    cp -a --reflink=auto -- "$base/." "$root/"
    # A name of its own is what a host has and a root has not.
    echo "$address" >"$root/etc/test-address"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
    echo 'APT::Get::Assume-Yes "true";' >"$root/etc/apt/apt.conf.d/99test"
    install -m 755 "$here/node/systemctl" "$root/usr/local/sbin/"
    # dpkg has a PATH of its own.
    install -m 755 "$here/node/systemd-tmpfiles" "$root/usr/bin/"
    install -m 755 "$here/node/ssh" "$root/usr/local/bin/"
    # Debian's varnish would have made these in a root with /proc.
    on "$address" install -d -m 0755 -o varnish -g varnish /var/lib/varnish
    [[ -s $root/etc/varnish/secret ]] || (umask 077 && echo "only a test's" >"$root/etc/varnish/secret")
    cp -- "$package" "$root/root/"
}

# files ADDRESS: what is there, with owner and mode, but for what a running system changes by itself.
files() {
    (cd -- "$(root_of "$1")" && find . -xdev \( -path ./srv -o -path ./tmp -o -path ./root -o -path ./run -o -path ./var/cache -o -path ./var/log \
        -o -path ./var/lib/apt -o -path ./var/lib/varnish -o -path './var/lib/dpkg/*-old' -o -path ./var/lib/dpkg/lock\* \
        -o -path ./var/lib/dpkg/triggers -o -path ./dev \) -prune -o -printf '%y %#m %U:%G %p\n') | LC_ALL=C sort
}

# The document, as a script for the test: before each block a line that says on which nodes it is run.
blocks() {
    awk '/^```sh (each|first)$/ { print "@" $2; inside = 1; next } /^```/ { inside = 0 } inside' "$repo/docs/GETTING-STARTED.md"
}

# run ADDRESS SCRIPT: a block, with this node's addresses in the place of the document's.
run() {
    local script
    script=$(sed -e "s/192\.0\.2\./127.0.2./g; s/localhost:6081/$1:6081/g; s/^listen = \"0\.0\.0\.0:/name = \"cache-${1##*.}\"\nlisten = \"$1:/" <<<"$2")
    on "$1" bash -euo pipefail -c "$script"
}

serial() { on "$1" curl -sS -o /dev/null -D - -H 'Host: www.example.com' "http://$1:6081/$2" | sed -nE 's/^X-Serial: ([0-9]+).*/\1/p'; }
declare -A cached
cache_everywhere() {
    for address in "${nodes[@]}"; do
        cached[$address]=$(serial "$address" "$1")
        [[ -n ${cached[$address]} && $(serial "$address" "$1") == "${cached[$address]}" ]] || fail "$address does not cache /$1"
    done
}
purged_everywhere() {
    for address in "${nodes[@]}"; do
        local now
        now=$(serial "$address" "$1")
        [[ -n $now && $now != "${cached[$address]}" ]] || fail "$2: $address still serves /$1 as before"
    done
}
purge() {
    on "$1" curl -sS -o /dev/null -w '%{http_code}' -X PURGE -H 'Host: www.example.com' -H 'X-Powderhorn-Wait: 20s' "http://$1:6081/$2"
}

say "test-deb: $(basename "$package") on three nodes"
for address in "${nodes[@]}"; do
    make_node "$address"
done
before=$(files "$third")

# Debian 13 has all that it depends on, for a host that has nothing yet.
on "$first" bash -c 'touch /tmp/nothing && apt-get -s -q -o Dir::State::status=/tmp/nothing install ./varnish-powderhorn_*.deb' \
    | grep -q '^Inst varnish ' || fail "it cannot be installed on a plain Debian 13"

# The web server: each answer is another one.
cat >"$work/etc/origin.vcl" <<'END'
vcl 4.1;
backend none none;
sub vcl_recv { return (synth(200)); }
sub vcl_synth {
    set resp.http.Cache-Control = "max-age=3600";
    set resp.http.X-Serial = req.xid;
    return (deliver);
}
END
on "$first" bash -c "setsid varnishd -F -n origin -a $origin:80 -f /etc/origin.vcl -s malloc,16m >/var/log/origin.log 2>&1 & echo \$! >/run/origin.pid"

# Each node does a block, and the shown output is what a reader would see.
where='' script=''
run_block() {
    [[ -n $where ]] || return 0
    case $where in
        each) for address in "${nodes[@]}"; do run "$address" "$script" || fail "on $address this block of the document fails: $script"; done ;;
        first) run "$first" "$script" || fail "this block of the document fails: $script" ;;
    esac
    # The document lets a second pass after the caches were filled, and so does this: purged or not is seen by other means.
    [[ $script != *'for pass in'* ]] || cache_everywhere news
    if [[ $script == *'-X PURGE'* ]]; then purged_everywhere news "after the document's purge"; fi
}
started=$SECONDS
while IFS= read -r line; do
    if [[ $line == @* ]]; then
        run_block
        where=${line#@} script=''
    else
        script+=$line$'\n'
    fi
done <<<"$(blocks)"
run_block
say "test-deb: docs/GETTING-STARTED.md as it is written, on three nodes: $((SECONDS - started)) s"

# The journal is there and is Varnish's, since varnishd's child has given up root.
[[ $(on "$first" stat -c '%a %U:%G' /var/lib/powderhorn) == "750 vcache:varnish" ]] || fail "/var/lib/powderhorn is not as it should be"
[[ -n $(ls -A "$work/var/lib/powderhorn") ]] || fail "there is no journal in /var/lib/powderhorn"

# due ADDRESS: what check-health says of versions that differ; nothing if they do not.
due() { on "$1" powderhorn check-health | sed -nE 's/^POWDERHORN WARNING - .*; (installed [^ ]+, loaded [^ ]+: restart varnish) \|.*/\1/p'; }

# An upgrade, to the next revision, with the same contents but for that: Varnish goes on with what it has, and its objects stay.
# The library has its version in it, and in its place only one of the same length fits.
# shellcheck disable=SC2016 # dpkg fills in the field.
version=$(on "$first" dpkg-query -W -f '${Version}' varnish-powderhorn)
revision=${version##*-}
higher=${version%-*}-${revision//?/z}
# shellcheck disable=SC2016 # The inner shell's own arguments.
on "$first" env LC_ALL=C bash -euc 'mkdir /tmp/higher && dpkg-deb -R /root/varnish-powderhorn_*.deb /tmp/higher/tree
    sed -i "s/^Version: .*/Version: $2/" /tmp/higher/tree/DEBIAN/control
    sed -i "s/${1//./\\.}/$2/g" /tmp/higher/tree/usr/lib/*/varnish/vmods/libvmod_powderhorn.so
    dpkg-deb --root-owner-group -b /tmp/higher/tree /tmp/higher/higher.deb' higher "$version" "$higher" >/dev/null
cache_everywhere upgrade
for address in "${nodes[@]}"; do
    worker=$(on "$address" varnishadm pid | sed -n 's/^Worker: *//p')
    cp -- "$work/tmp/higher/higher.deb" "$(root_of "$address")/root/higher.deb"
    on "$address" apt-get -q install ./higher.deb >/dev/null || fail "the upgrade fails on $address"
    # shellcheck disable=SC2016 # dpkg fills in the field.
    [[ $(on "$address" dpkg-query -W -f '${Version}' varnish-powderhorn) == "$higher" ]] || fail "$address is not upgraded"
    [[ -n $worker && $(on "$address" varnishadm pid | sed -n 's/^Worker: *//p') == "$worker" ]] || fail "the upgrade restarted Varnish on $address"
done
[[ $(purge "$second" upgrade) == 200 ]] || fail "a purge after the upgrade does not get everywhere"
purged_everywhere upgrade "after the upgrade"
# A new revision is seen within seconds.
for ((i = 0; i < 30; i++)); do
    [[ -z $(due "$second") ]] || break
    sleep 1
done
[[ $(due "$second") == "installed $higher, loaded $version: restart varnish" ]] || fail "nothing says that varnish has to be restarted: $(due "$second")"
on "$third" systemctl reload varnish || fail "a reload after the upgrade fails"
for address in "${nodes[@]}"; do
    on "$address" systemctl restart varnish || fail "$address does not start with the new version"
done
cache_everywhere restarted
[[ $(purge "$third" restarted) == 200 ]] || fail "a purge of the new version does not get everywhere"
purged_everywhere restarted "with the new version"
[[ $(on "$second" powderhorn status) == *"version $higher, installed $higher"* ]] || fail "restarted, and still: $(due "$second")"
say "test-deb: upgraded, without a restart of its own"

# What Debian's own tests of a package would do.
on "$second" systemctl stop varnish
cp -- "$here/debian/tests/smoke" "$(root_of "$second")/tmp/"
on "$second" /tmp/smoke || fail "debian/tests/smoke fails"

# Removed: the operator's files stay. Purged: only the operator's own stay.
on "$third" systemctl stop varnish
on "$third" apt-get -q remove varnish-powderhorn >/dev/null || fail "it cannot be removed"
third_root=$(root_of "$third")
[[ -e $third_root/etc/varnish/powderhorn.toml ]] || fail "removing it took the configuration"
[[ ! -e $third_root/usr/share/varnish/vcl/powderhorn.vcl && ! -e $third_root/usr/bin/powderhorn ]] || fail "removing it left files"
on "$third" apt-get -q purge varnish-powderhorn >/dev/null || fail "it cannot be purged"
rm -- "$third_root"/etc/varnish/{powderhorn.key,powderhorn_purgers.vcl}
after=$(files "$third")
[[ $before == "$after" ]] || fail "purged, and this differs: $(diff <(echo "$before") <(echo "$after"))"
say "test-deb: removed and purged, and nothing is left"
