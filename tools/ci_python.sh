#!/usr/bin/env bash
# The Python package as people get it: built by pip, installed into a fresh environment, tested there.
# Usage: tools/ci_python.sh [rotor command to compare logits with]
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
python="$environment/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check . \
    pytest==9.2.0 matplotlib==3.11.2 ruff==0.17.6 mypy==2.4.1
command=${1:-target/release/rotor}
[ -x "$command" ] && ROTOR_COMMAND=$(realpath "$command") && export ROTOR_COMMAND
"$environment/bin/ruff" check crates/rotor-python
"$environment/bin/ruff" format --check crates/rotor-python
"$environment/bin/mypy"
"$python" -m pytest -q -rs -p no:cacheprovider
