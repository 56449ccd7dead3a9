#!/usr/bin/env bash
# What the engine's tests have no time for. Memory over a long time: 100,000 short requests must leave resident memory level, and a
# context of 32,760 tokens must give back what it took. And 10,000 random decodes whose head is read in part must be those of the
# whole head. Takes minutes, by itself on the machine; prints what it measured.
# Usage: tools/nightly_engine.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --locked --package rotor-engine --test batch -- --ignored --nocapture --exact \
    resident_memory_is_level_over_100_000_requests_and_falls_after_a_long_context
cargo test --locked --package rotor-engine --test read -- --ignored --exact ten_thousand_decodes_are_the_same
