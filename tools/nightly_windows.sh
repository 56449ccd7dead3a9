#!/usr/bin/env bash
# The whole test suite on Windows: built here, run under Wine, its counts printed at the end. Takes half an hour on two cores,
# so it is not part of the gate; tools/ci_targets.sh has the unit tests of it.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh
have_standard_library_sources && have_mingw && have_wine || {
    echo "needs rustc-web, rust-web-src, gcc-mingw-w64-x86-64 and wine64 (Debian packages), and root to install them" >&2
    exit 1
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
# Doctests are compiled by rustdoc, which has no notion of a standard library that was just built.
build_std test --target $windows --no-fail-fast --lib --bins --tests \
    --workspace --exclude rotor-python --exclude rotor-ladders "$@" 2>&1 | tee "$log" && code=0 || code=$?
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "\nWindows: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
exit "$code"
