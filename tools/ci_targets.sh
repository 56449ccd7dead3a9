#!/usr/bin/env bash
# Other systems than this one: a type check for macOS, and the text of the built-in model on WebAssembly (under Node). A warning
# about our own code is an error on each. What cannot be had here is skipped, by name. For Windows see tools/nightly_windows.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh

if ! have_standard_library_sources; then
    echo "SKIPPED: macOS and WebAssembly. Their standard libraries are built from rustc-web and rust-web-src" \
        "(Debian packages, rustc no older than Cargo.toml says); root is needed to install them"
    exit 0
fi

echo "-- macOS: type check"
check_macos --package rotor-cli

echo "-- WebAssembly"
if ! have_wasi || ! command -v node >/dev/null; then
    build_wasi check "${quick[@]}" --package rotor-cli --no-default-features
    echo "SKIPPED: running on WebAssembly, which needs ziglang (a PyPI package) and Node"
    exit 0
fi
build_wasi build "${quick[@]}" --package rotor-cli --no-default-features
text_on_wasm=$(plainly node --no-warnings tools/run_wasi.mjs "$built/wasm32-wasip1/debug/rotor.wasm")
same_text WebAssembly "$text_on_wasm"
