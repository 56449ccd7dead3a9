#!/usr/bin/env bash
# Runs a Windows program under Wine, and once more where it lost its connection to Wine's server: that happens under load, to any
# program, and says nothing about it.
# Usage: run_in_wine.sh PROGRAM.exe [ARGUMENT...]
set -uo pipefail
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
for attempt in first second; do
    { wine "$@" 2>&1 >&3 | tee "$errors" >&2; } 3>&1
    code=$?
    [ $code -ne 0 ] && grep -q "^wine client error" "$errors" || exit $code
    echo "run_in_wine.sh: the $attempt attempt lost its connection to Wine's server" >&2
done
exit $code
