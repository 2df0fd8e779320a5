#!/bin/sh
# Bring in upstream at its pinned commit and rewrite it. It comes over the network, or from /given,
# which is a clone or a folder, or holds a tarball.
# $1: the folder of the rewritten tree. $2: the digest that its rewrites must have.
set -eu
export KIT_UPSTREAM_TREE=/var/cache/upstream
if [ -f /run/secrets/ca ]; then
	export GIT_SSL_CAINFO=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca
fi
if [ -z "$(ls -A /given)" ]; then
	kit upstream fetch
	kit upstream render --output "$1"
else
	source=/given
	for file in /given/*.tar* /given/*.tgz; do
		[ ! -f "$file" ] || source="$file"
	done
	kit upstream render --from "$source" --output "$1"
fi
grep -q "\"digest\": \"$2\"" "$1/spark-kit.json" || {
	printf 'error: the image would be labelled with other rewrites than it has: %s\n' "${2:-none}" >&2
	printf 'hint: build it with make image or kit image build, which work out the label\n' >&2
	exit 4
}
