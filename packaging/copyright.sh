#!/bin/bash
# copyright.sh VENDOR: prints debian/copyright: what debian/copyright.in says, and below it each crate of the folder VENDOR that is
# compiled into the package, as it names its authors and its licence itself.
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "$0")")
# shellcheck source=packaging/lib.sh
source "$here/lib.sh"
vendor=$(readlink -f -- "$1")
cd -- "$here/.."

# A crate's licence in Debian's words: "or" and "and", and a comma for brackets.
licence() {
    sed -E 's, */ *, OR ,g; s/ WITH LLVM-exception/-LLVM-exception/g; s/^\((.*)\) AND /\1, and /; s/ OR / or /g; s/ AND / and /g' <<<"$1"
}

# owners FOLDER: whose the crate is: its licence files say it, or else its manifest.
owners() {
    local found
    found=$(find "$1" -maxdepth 1 -type f \( -iname 'LICEN[SC]E*' -o -iname 'COPYRIGHT*' \) -exec cat {} + \
        | sed -nE 's/^[[:space:]]*Copyright[[:space:]]*:?[[:space:]]*(\([cC]\)|©)?[[:space:]]*([0-9].*|[Tt]he [A-Z].*)$/\2/p' \
        | sed 's/[[:space:]]*$//' | LC_ALL=C sort -u)
    if [[ -z $found ]]; then
        found=$(sed -nE '/^authors = \[/,/\]/p' "$1/Cargo.toml" | grep -oE '"[^"]+"' | tr -d '"' || true)
    fi
    printf '%s\n' "${found:-the authors of ${1##*/}}"
}

# No process substitution: there may be no /proc.
crates=$(cargo tree --locked --offline --edges normal --prefix none --format '{p}|{l}' --package vmod_powderhorn --package powderhorn-cli \
    | sed 's/ (\*)$//; s/ (proc-macro)//; /^\(vmod_\)\?powderhorn/d; /^$/d' | LC_ALL=C sort -u)
stanzas='' used=''
while IFS='|' read -r name licence; do
    read -r crate version _ <<<"$name"
    folder=$vendor/$crate-${version#v}
    [[ -d $folder ]] || die "copyright.sh: $folder is missing"
    [[ -n $licence ]] || die "copyright.sh: $crate names no licence"
    licence=$(licence "$licence")
    stanzas+=$(printf '\nFiles: vendor/%s/*\nCopyright: %s\nLicense: %s' "${folder##*/}" "$(owners "$folder" | sed '2,$s/^/ /')" "$licence")$'\n'
    used+=$(sed -E 's/, and | or | and /\n/g' <<<"$licence")$'\n'
done <<<"$crates"

cat packaging/debian/copyright.in
printf '%s' "$stanzas"
# The texts that are referred to, each once.
while read -r name; do
    text=packaging/debian/licences/$name
    # In copyright.in, because it is our own.
    [[ $name != BSD-2-Clause ]] || continue
    [[ -r $text ]] || die "copyright.sh: the text of a licence is missing: $text"
    printf '\nLicense: %s\n' "$name"
    sed 's/^$/./; s/^/ /' "$text"
done <<<"$(sed '/^$/d' <<<"$used" | LC_ALL=C sort -u)"
