#!/bin/sh
# see.sh PORT PORT STATE HOST/PATH [HEADER ...]: asks the nodes at both ports for a page, and fails if what they
# have of it is not as STATE says. Headers "Origin-Name: value" say what the origin answers, see clients.vcl.
#
#	fill	fetches it; it is in the cache then
#	kept	it is in the cache
#	gone	it is not; it is fetched, and is in the cache then
set -eu
ports="$1 $2" state=$3 page=$4
shift 4
for header; do
	set -- "$@" -H "$header"
	shift
done
for port in $ports; do
	get() {
		curl -s -m 20 -o /dev/null -D - -H "Host: ${page%%/*}" "$@" "http://127.0.0.1:$port/${page#*/}" |
			tr -d '\r' | sed -n 's/^hits: //p'
	}
	first=$(get "$@") second=$(get "$@")
	case $state:$first:$second in
	fill:*:[1-9]* | kept:[1-9]*:[1-9]* | gone:0:[1-9]*) ;;
	*)
		echo "$page on port $port is not $state: hits $first, then $second" >&2
		exit 1
		;;
	esac
done
