#!/bin/sh
# pip of the builder stages, told of what the build was given: a wheelhouse, which then is the only
# index, and the CA bundle of a TLS proxy.
set -eu
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
if [ -n "$(ls -A /wheelhouse 2>/dev/null)" ]; then
	export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheelhouse
fi
if [ -f /run/secrets/ca ]; then
	export PIP_CERT=/run/secrets/ca
fi
exec /opt/build/bin/python -m pip "$@"
