#!/usr/bin/env bash
# Runs a command beside a server on a free port: tools/with_server.sh ROTOR [OPTIONS OF rotor serve ...] -- COMMAND ...
# The command finds the server's address in ROTOR_URL; its exit code is this one's. The server must end by itself afterwards.
set -euo pipefail
rotor=$(realpath "${1:?path of the rotor binary}")
shift
options=()
while [ "${1:?-- and a command}" != -- ]; do
    options+=("$1")
    shift
done
shift

work=$(mktemp -d)
"$rotor" serve --port 0 --json "${options[@]}" >"$work/listening" 2>"$work/log" &
server=$!
trap 'kill -9 "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    [ -s "$work/listening" ] && break
    sleep 0.1
done
port=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["port"])' "$work/listening")
export ROTOR_URL="http://127.0.0.1:$port" ROTOR_PID="$server"
for _ in $(seq 300); do
    "$rotor" serve --check "$ROTOR_URL" 2>/dev/null && break
    sleep 0.1
done
"$rotor" serve --check "$ROTOR_URL"

code=0
"$@" || code=$?
if [ "$code" -ne 0 ]; then
    tail -n 20 "$work/log" >&2
    exit "$code"
fi
kill -TERM "$server"
for _ in $(seq 200); do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
if kill -0 "$server" 2>/dev/null; then
    echo "the server did not end within 20 s of SIGTERM" >&2
    exit 1
fi
wait "$server"
