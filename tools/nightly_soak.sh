#!/usr/bin/env bash
# Memory over a long time: 100,000 short requests must leave resident memory level, and a context of 32,760 tokens must give back what
# it took. Takes minutes, by itself on the machine; prints what it measured.
# Usage: tools/nightly_soak.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --locked --package rotor-engine --test batch -- --ignored --nocapture --exact \
    resident_memory_is_level_over_100_000_requests_and_falls_after_a_long_context
