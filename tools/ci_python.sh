#!/usr/bin/env bash
# The Python package as people get it: built by pip, installed into a fresh environment, tested there.
# Usage: tools/ci_python.sh [rotor command to compare logits with]
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
python="$environment/bin/python"
if ! "$python" -m pip install --quiet --disable-pip-version-check \
    pytest==9.2.0 matplotlib==3.11.2 ruff==0.17.6 mypy==2.4.1; then
    echo "SKIPPED: the Python package. pytest, matplotlib, ruff or mypy (PyPI) cannot be had"
    exit 0
fi
"$python" -m pip install --quiet --disable-pip-version-check .
# Without Ray, which has wheels for some Pythons only, its tests say that they are skipped.
"$python" -m pip install --quiet --disable-pip-version-check --only-binary ray "ray[data,serve]==2.60.0" ||
    echo "Ray 2.60.0 cannot be had: rotor.ray will not be tested"
command=${1:-target/release/rotor}
[ -x "$command" ] && ROTOR_COMMAND=$(realpath "$command") && export ROTOR_COMMAND
"$environment/bin/ruff" check crates/rotor-python
"$environment/bin/ruff" format --check crates/rotor-python
"$environment/bin/mypy" --cache-dir "$environment/mypy"
# The stubs against the compiled part, and what the installed package is to those who check their types.
tests=$PWD/crates/rotor-python/tests
(cd "$environment" && bin/stubtest rotor._rotor && bin/mypy --strict "$tests/typed.py")
"$python" -m pytest -q -rs --durations=3 -p no:cacheprovider
