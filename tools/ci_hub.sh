#!/usr/bin/env bash
# The cache that rotor shares with the official huggingface_hub, against the tests' hub on loopback.
# Usage: tools/ci_hub.sh ROTOR
set -euo pipefail
rotor=$(realpath "$1")
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/rotor-ci"
if ! { python3 -m venv "$cache/venv-hub" &&
    "$cache/venv-hub/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0; }; then
    echo "SKIPPED: the cache that is shared with the hub's official tools. huggingface_hub 2.4.0 (PyPI) cannot be had"
    exit 0
fi
cargo build --quiet --locked -p rotor-hub --example hub
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$rotor" synth tiny "$work/tiny.gguf"
"$rotor" synth tiny "$work/tiny" --type hf
"$cache/venv-hub/bin/python" tools/check_hub.py "$rotor" target/debug/examples/hub "$work/tiny.gguf" "$work/tiny"
