#!/usr/bin/env bash
# Checks systems other than this one: types on macOS, the text of the built-in model on WebAssembly (under Node), and on Windows
# (under Wine) the unit tests and the command's first steps. A warning about our own code is an error on each. What cannot be had
# here is skipped, by name. tools/nightly_windows.sh runs every test of the workspace on Windows.
#
# Usage: tools/ci_targets.sh [macos] [webassembly] [windows]
#        Without any, all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh

if ! have_standard_library_sources; then
    echo "SKIPPED: macOS, WebAssembly and Windows. Their standard libraries are built from rustc-web and rust-web-src" \
        "(Debian packages, rustc no older than Cargo.toml says); root is needed to install them"
    exit 0
fi

# They write or compare some hundred files or some million pieces of text, and take minutes under Wine.
slow_on_windows=(any_vocabulary_of_a_gguf_goes_there_and_back any_tokenizer_json_goes_there_and_back
    every_pre_tokenizer_cuts_as_another_regex_engine_does the_reader_finds_what_was_meant_in_every_family)

macos() { check_macos --package rotor-cli; }

webassembly() {
    if ! have_wasi || ! command -v node >/dev/null; then
        build_wasi check "${quick[@]}" --package rotor-cli --no-default-features
        echo "SKIPPED: running on WebAssembly, which needs ziglang (a PyPI package) and Node"
        return
    fi
    build_wasi build "${quick[@]}" --package rotor-cli --no-default-features
    local text
    text=$(plainly node --no-warnings tools/run_wasi.mjs "$built/wasm32-wasip1/debug/rotor.wasm")
    same_text WebAssembly "$text"
}

windows() {
    if ! have_mingw; then
        echo "SKIPPED: Windows, which needs gcc-mingw-w64-x86-64 (a Debian package)"
    elif ! have_wine; then
        windows_build test --no-run --lib --bins
        echo "SKIPPED: running on Windows, which needs wine64 (a Debian package)"
    else
        # Beside the unit tests those of the command on paths and files in use, for which systems differ most.
        echo "left to tools/nightly_windows.sh: the other integration tests, and of the unit tests ${slow_on_windows[*]}"
        windows_tests --lib --bins --test paths -- "${slow_on_windows[@]/#/--skip=}"
        windows_smoke_test
    fi
}

[ $# -gt 0 ] || set -- macos webassembly windows
for system in "$@"; do
    case $system in macos | webassembly | windows) ;; *) echo "ci_targets.sh: unknown system $system" >&2 && exit 2 ;; esac
    echo "-- $system (${SECONDS}s)"
    $system
done
echo "-- other systems took ${SECONDS}s"
