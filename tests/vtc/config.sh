#!/bin/sh
# Writes $1/$2.toml: node $2, listening on the UDP port $3 of loopback, with the peers $4 $5 ...
# (ports as well), and the fleet's key beside it.
set -eu
dir=$1 name=$2 port=$3
shift 3
[ -f "$dir/fleet.key" ] ||
	echo 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f >"$dir/fleet.key"
# varnishd gives up root for a user of its own.
chmod 644 "$dir/fleet.key"
mkdir -p "$dir/$name-state"
chmod 777 "$dir/$name-state"
{
	cat <<-EOF
		[journal]
		dir = "$dir/$name-state"

		[node]
		name = "$name"
		listen = "127.0.0.1:$port"

		[fleet]
		name = "vtc"
		key_file = "$dir/fleet.key"
	EOF
	for peer; do
		printf '\n[[peer]]\naddress = "127.0.0.1:%s"\n' "$peer"
	done
} >"$dir/$name.toml"
