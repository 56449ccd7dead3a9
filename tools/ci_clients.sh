#!/usr/bin/env bash
# The official clients of OpenAI and Anthropic against `rotor serve`: tools/ci_clients.sh ROTOR
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
work=$(mktemp -d)
"$rotor" serve --port 0 --json >"$work/listening" 2>"$work/log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    [ -s "$work/listening" ] && break
    sleep 0.1
done
port=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["port"])' "$work/listening")
"$rotor" serve --check "http://127.0.0.1:$port"
"$cache/clients/bin/python" crates/rotor-server/tests/clients/clients.py "http://127.0.0.1:$port"
