#!/usr/bin/env bash
# Windows: built here, run under Wine. The command's first steps, then every test of the workspace; at the end the counts, and by
# name what this system tests and Windows does not. Too long for the gate, which runs the unit tests (tools/ci_targets.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh
have_standard_library_sources && have_mingw && have_wine || {
    echo "needs rustc-web, rust-web-src, gcc-mingw-w64-x86-64 and wine64 (Debian packages), and root to install them" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

windows_tests --lib --bins --tests --no-run
windows_smoke_test
code=0
windows_tests --lib --bins --tests 2>&1 | tee "$work/log" || code=$?
cargo test --quiet --workspace --locked --lib --bins --tests -- --list --format terse >"$work/here"
names() { sed 's/\r$//' "$1" | LC_ALL=C sort -u; }
sed -n 's/^test \(.*\) \.\.\. .*/\1/p; s/^test \(.*\) - should panic \.\.\. .*/\1/p' "$work/log" >"$work/there.names"
sed -n 's/^\(.*\): test$/\1/p' "$work/here" >"$work/here.names"
printf '\nTested here and not on Windows:\n'
LC_ALL=C comm -23 <(names "$work/here.names") <(names "$work/there.names") | sed 's/^/    /'
printf '\nFailed on Windows:\n'
sed -n 's/^test \(.*\) \.\.\. FAILED.*/    \1/p' "$work/log"
printf '\nHere: %d tests. Windows: %s' "$(grep -c ': test$' "$work/here")" "$(test_counts "$work/log")"
printf '\n'
exit $code
