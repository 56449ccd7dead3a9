#!/usr/bin/env bash
# The page in Chromium: against its mock server and, where a binary is given, against `rotor serve`.
# Usage: tools/ci_page.sh [ROTOR]. Skipped, by name, where Node.js or Chromium cannot be had.
set -euo pipefail
rotor="${1:+$(realpath "$1")}"
tools=$(realpath "$(dirname "$0")")
cd "$tools/../crates/rotor-server/tests/page"

complete() {
    command -v npm >/dev/null && command -v "${CHROMIUM:-chromium}" >/dev/null
}

install() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null
}

if ! complete && ! { install && complete; }; then
    echo "SKIPPED: the page in Chromium. It needs npm, the Debian package chromium, and root to install it"
    exit 0
fi
if ! npm ci --silent --no-fund --no-audit; then
    echo "SKIPPED: the page in Chromium. The npm packages playwright-core and prettier cannot be had"
    exit 0
fi
npm run --silent lint
npm test
if [ -n "$rotor" ]; then
    echo "the page on rotor serve"
    "$tools/with_server.sh" "$rotor" -- bash -c 'ROTOR_PAGE_URL=$ROTOR_URL/ node --test page.test.mjs'
fi
