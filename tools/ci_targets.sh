#!/usr/bin/env bash
# Other systems than this one: the unit tests and a smoke test on Windows (under Wine), text from the built-in model on WebAssembly
# (under Node), and a type check for macOS. A warning about our own code is an error on each. What cannot be had here is
# skipped, by name.
# tools/nightly_windows.sh runs the whole suite for Windows.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh

if ! have_standard_library_sources; then
    echo "SKIPPED: Windows, macOS and WebAssembly. Their standard libraries are built from rustc-web and rust-web-src" \
        "(Debian packages, rustc no older than Cargo.toml says); root is needed to install them"
    exit 0
fi

# The crates we depend on are not worth optimising here: what is tested is our own code.
quick=(--config 'profile.dev.package."*".opt-level=0' --config 'profile.dev.debug=false')
built="${CARGO_TARGET_DIR:-target}/debian"
prompt=(run -p "Once upon a time" -n 16)
# Runs a command with the plain kernels: each family adds floats in an order of its own, and this one is everywhere.
plainly() { ROTOR_ISA=scalar "$@" "${prompt[@]}" </dev/null; }

echo "-- macOS: type check"
build_std check --target aarch64-apple-darwin "${quick[@]}" --package rotor-cli

text_here=$(plainly cargo run --quiet --release --locked --bin rotor --)
same_text() {
    [ "$2" = "$text_here" ] || { echo "$1: expected the text '$text_here', found '$2'" >&2 && exit 1; }
    echo "the built-in model says on $1 what it says here"
}

echo "-- WebAssembly"
if have_wasi && command -v node >/dev/null; then
    build_wasi build "${quick[@]}" --package rotor-cli --no-default-features
    same_text WebAssembly "$(plainly node --no-warnings tools/run_wasi.mjs "$built/wasm32-wasip1/debug/rotor.wasm")"
else
    build_wasi check "${quick[@]}" --package rotor-cli --no-default-features
    echo "SKIPPED: running on WebAssembly, which needs ziglang (a PyPI package) and Node"
fi

echo "-- Windows"
if ! have_mingw; then
    echo "SKIPPED: building for Windows, which needs gcc-mingw-w64-x86-64 (a Debian package), and root to install it"
    exit 0
fi
windows_build() { build_std "$@" --target $windows "${quick[@]}"; }
unit_tests=(--workspace --exclude rotor-python --exclude rotor-ladders --lib --bins)
windows_build build --package rotor-cli
if ! have_wine; then
    windows_build test --no-run "${unit_tests[@]}"
    echo "SKIPPED: running the Windows build, which needs wine64 (a Debian package), and root to install it"
    exit 0
fi
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
windows_build test "${unit_tests[@]}"

rotor=$(realpath "$built/$windows/debug/rotor.exe")
same_text Windows "$(plainly wine "$rotor")"
work=$(mktemp -d "${TMPDIR:-/tmp}/rotor ünï XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
wine "$rotor" doctor >doctor.txt || { cat doctor.txt && exit 1; }
wine "$rotor" synth tiny "ein Modell.gguf"
wine "$rotor" convert "ein Modell.gguf" ternär.safetensors --type rotor --verify
wine "$rotor" diff "ein Modell.gguf" ternär.safetensors
