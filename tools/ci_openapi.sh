#!/usr/bin/env bash
# What /openapi.json says, held against `rotor serve` by schemathesis (PyPI): tools/ci_openapi.sh ROTOR [SECONDS]
# No status of 500 or more, no answer that the description does not have. Skipped, by name, where schemathesis cannot be had.
set -euo pipefail
rotor=$(realpath "${1:?path of the rotor binary}")
seconds="${2:-45}"
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/rotor-ci"
mkdir -p "$cache"

if ! python3 -m venv "$cache/schemathesis" ||
    ! "$cache/schemathesis/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5; then
    echo "SKIPPED: the description of the server. schemathesis 4.32.5 (PyPI) cannot be had"
    exit 0
fi
export schemathesis="$cache/schemathesis/bin/schemathesis" seconds config="$PWD/crates/rotor-server/tests/schemathesis.toml"
# It leaves notes where it runs.
notes=$(mktemp -d)
trap 'rm -rf "$notes"' EXIT
export notes
# A small context, so that an answer of any length is short.
tools/with_server.sh "$rotor" --ctx 64 -- bash -c '
    cd "$notes"
    "$schemathesis" --config-file "$config" run "$ROTOR_URL/openapi.json" --phases examples,coverage,fuzzing \
        --max-time "$seconds" --seed 1 --request-timeout 60 --warnings off'
