#!/usr/bin/env bash
# The kernels on aarch64: cross-built with Debian's toolchain, tested under qemu, and the dot-product instruction looked for
# in what was built. Skipped, by name, where the toolchain is not there and cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh
target=aarch64-unknown-linux-gnu

complete() {
    command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null &&
        [ -d "/usr/lib/rustlib/$target/lib" ] && [ -e /lib/ld-linux-aarch64.so.1 ] && debian_rustc_is_new_enough
}

# Debian has a standard library for another architecture, which rustup may not offer here.
install() {
    [ "$(id -u)" -eq 0 ] && dpkg --add-architecture arm64 &&
        debian_install rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
}

if ! complete && ! { install && complete; }; then
    echo "SKIPPED: the aarch64 kernels. They need rustc-web, libstd-rust-web-dev:arm64, gcc-aarch64-linux-gnu and qemu-user" \
        "(Debian packages, rustc no older than Cargo.toml says), and root to install them"
    exit 0
fi

export RUSTC="$debian_rustc" CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/aarch64"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# The crates that the tests need are not worth optimising here: the kernels themselves are.
test_binary() {
    cargo test --locked --package rotor-kernels --lib --target $target --no-run --message-format=json \
        --config 'profile.dev.package."*".opt-level=0' |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

binary=$(test_binary)
# The C library is that of the arm64 packages. (With `-L /usr/aarch64-linux-gnu` the loader would come from the cross
# compiler's package and the rest from these: two releases of glibc, and the first thread hangs.)
# Every level there is, in this order, on a processor with all extensions and on one without dot products: what is not
# available there must not be used there.
levels() { qemu-aarch64 -cpu "$1" "$binary" --exact tests::isas_exercised --nocapture | grep '^ISAs exercised'; }
levels max
levels cortex-a72
qemu-aarch64 -cpu cortex-a72 "$binary" --quiet &
without_dot_products=$!
qemu-aarch64 -cpu max "$binary" --quiet
wait "$without_dot_products"
levels max | grep -q 'scalar, neon, neon-dotprod;'
levels cortex-a72 | grep -q 'scalar, neon;'

tools/check_instruction.sh "$binary" neon_dotprod sdot aarch64-linux-gnu-objdump
