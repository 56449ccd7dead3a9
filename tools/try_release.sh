#!/usr/bin/env bash
# Tries what tools/release.sh left in dist/ as a stranger would: install.sh in a root that has neither Rust nor Python, the archive
# for ARM there under emulation, the one for Windows under Wine, wheels in fresh environments. Says for each artefact what was
# tried, and what cannot be tried here. Needs root, and installs debootstrap, qemu-user-static and wine64 (Debian packages).
# Not run to its end yet.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
dist=$PWD/dist
root="$cache/bare-root"
work=$(mktemp -d "${TMPDIR:-/tmp}/rotor ünï XXXXXX")
trap 'rm -rf "$work"' EXIT
failed=0

main() {
    try linux-amd64 linux_amd64
    try linux-arm64 linux_arm64
    try windows-amd64 windows_amd64
    for name in macos-arm64 macos-amd64; do
        if archive_of $name >/dev/null; then echo "SKIPPED $name: nothing here can run it"; fi
    done
    for wheel in "$dist"/*.whl; do [ ! -e "$wheel" ] || try "$(basename "$wheel")" try_wheel "$wheel"; done
    return $failed
}

try() {
    local name=$1 code
    shift
    printf '\n== %s (%ss)\n' "$name" "$SECONDS"
    set +e
    (set -e; "$@")
    code=$?
    set -e
    case $code in
        0) echo "PASSED $name" ;;
        75) ;; # It has said why it was skipped.
        *) echo "FAILED $name" && failed=1 ;;
    esac
}

skip() { echo "SKIPPED $1" && exit 75; }

archive_of() { ls "$dist/rotor-$version-$1".{tar.gz,zip} 2>/dev/null | head -n 1 | grep .; }

# What a person would try first. The arguments are how to run the command; the current folder is writable.
first_steps() {
    "$@" --version
    "$@" run -p "Once upon a time" -n 24 </dev/null
    echo
    "$@" doctor >doctor.txt || { cat doctor.txt && return 1; }
    "$@" synth tiny "ein Modell.gguf"
    "$@" convert "ein Modell.gguf" ternär.safetensors --type rotor --verify
    "$@" diff "ein Modell.gguf" ternär.safetensors
    "$@" inspect ternär.safetensors >inspect.txt
    "$@" bench "ein Modell.gguf" -p 64 -n 8 -r 1 --rounds 1
    # Whatever serves is asked whether it is well.
    if "$@" serve --help >/dev/null 2>&1; then served "$@"; fi
}

served() {
    "$@" serve "ein Modell.gguf" --host 127.0.0.1 --port 18473 2>serve.txt &
    local server=$! tries
    for tries in $(seq 60); do
        if "$@" serve --check http://127.0.0.1:18473 >/dev/null 2>&1; then kill $server && echo "serves" && return 0; fi
        sleep 1
    done
    kill $server || true
    cat serve.txt
    return 1
}

# A minimal Debian, from where this machine gets its packages: a shell and the core utilities.
bare_root() {
    [ ! -e "$root/rotor-ready" ] || return 0
    command -v debootstrap >/dev/null || debian_install debootstrap || return 1
    local mirror suite
    mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
        sed -n 's/^URIs: *//p;s/^deb \(\[[^]]*\] \)\?\([^ ]*\).*/\2/p' | head -n 1)
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debootstrap --variant=minbase "$suite" "$root" "$mirror" >/dev/null && touch "$root/rotor-ready"
}

in_root() { env -i PATH=/usr/bin:/bin HOME=/root LANG=C.UTF-8 chroot "$root" "$@"; }

linux_amd64() {
    archive_of linux-amd64 >/dev/null || skip "linux-amd64: there is no archive"
    bare_root || skip "linux-amd64: there is no bare root to be had"
    rm -rf "$root/release" && mkdir "$root/release"
    cp "$dist"/rotor-"$version"-linux-amd64.tar.gz "$dist/SHA256SUMS" "$dist/deploy/install.sh" "$root/release/"
    in_root env ROTOR_RELEASE_URL=file:///release sh /release/install.sh
    # An archive that is not the published one is refused.
    echo >>"$root/release/rotor-$version-linux-amd64.tar.gz"
    if in_root env ROTOR_RELEASE_URL=file:///release sh /release/install.sh; then
        echo "a wrong checksum was accepted" && exit 1
    fi
    steps_in_root /root/.local/bin/rotor
}

# Static: the bare root needs nothing of that architecture.
linux_arm64() {
    archive_of linux-arm64 >/dev/null || skip "linux-arm64: there is no archive"
    bare_root || skip "linux-arm64: there is no bare root to be had"
    command -v qemu-aarch64-static >/dev/null || debian_install qemu-user-static || skip "linux-arm64: no qemu-user-static"
    cp "$(command -v qemu-aarch64-static)" "$root/usr/bin/"
    tar -xzf "$(archive_of linux-arm64)" -C "$root/release"
    steps_in_root qemu-aarch64-static "/release/rotor-$version/rotor"
}

steps_in_root() {
    in_root bash -c "set -eu; rm -rf '/root/ein Ordner'; mkdir '/root/ein Ordner'; cd '/root/ein Ordner'
        $(declare -f first_steps served)
        first_steps $*"
}

windows_amd64() {
    archive_of windows-amd64 >/dev/null || skip "windows-amd64: there is no archive"
    { have_mingw && have_wine; } || skip "windows-amd64: there is no Wine"
    cd "$work"
    "$python" -m zipfile -e "$(archive_of windows-amd64)" .
    first_steps wine "rotor-$version/rotor.exe"
}

try_wheel() {
    local wheel=$1 environment="$work/environment"
    case $wheel in
        *manylinux*x86_64.whl | *linux*x86_64.whl) ;;
        *) skip "$(basename "$wheel"): nothing here can run it" ;;
    esac
    # musl has another loader; what is here loads glibc's.
    case $wheel in *musllinux*) skip "$(basename "$wheel"): there is no Python with musl here" ;; esac
    rm -rf "$environment" && python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
    cd "$work"
    "$environment/bin/python" -c '
import numpy as np
from rotor.bitnet import bitnet_to_rotor, encode_bitnet_array
from rotor.core import RotorCore
from rotor.synth import create_bitnet_layer

weights = create_bitnet_layer(64, 256, zeros=0.4, seed=0)
bit0, bit1 = bitnet_to_rotor(encode_bitnet_array(weights))
activations = np.arange(256, dtype=np.int64).astype(np.int8)
assert (RotorCore.matvec(bit0, bit1, activations) == weights.astype(np.int32) @ activations.astype(np.int32)).all()
print("the example of the README holds")'
}

python=$(command -v python3)
main
