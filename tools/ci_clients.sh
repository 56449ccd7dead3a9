#!/usr/bin/env bash
# The official clients of OpenAI and Anthropic, and the examples of docs/server.md, against `rotor serve`: tools/ci_clients.sh ROTOR
set -euo pipefail
rotor=$(realpath "${1:?path of the rotor binary}")
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/rotor-ci"
mkdir -p "$cache"

if ! python3 -m venv "$cache/clients" ||
    ! "$cache/clients/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0 anthropic==2.14.0; then
    echo "SKIPPED: the official clients. openai 3.57.0 and anthropic 2.14.0 (PyPI) cannot be had"
    exit 0
fi
export python="$cache/clients/bin/python" tests=crates/rotor-server/tests/clients
tools/with_server.sh "$rotor" -- sh -e -c '"$python" "$tests/clients.py"; "$python" "$tests/examples.py" docs/server.md'
