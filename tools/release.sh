#!/usr/bin/env bash
# Builds what is released into dist/: archives for each system, wheels and a source distribution, bills of materials,
# checksums, and deploy/ with its placeholders filled.
#
# Usage: tools/release.sh [--no-wheels] [NAME...]
#        NAME: linux-amd64 linux-arm64 windows-amd64 macos-arm64 macos-amd64; without any, all of them.
#
# ROTOR_RELEASE_URL says where the archives will be, ROTOR_CONTACT whom to tell of a vulnerability. Needs root for Debian's
# packages, or those packages; Python 3; and the package registries. Two runs from the same commit with the same tools are meant to
# give the same bytes: paths are taken out of the binaries, times are the commit's, and files are packed in order of name.
#
# At the end the script lists dist/ and says of each step whether it was built, could not be done here (and why), or failed. It
# ends with 1 if a step failed.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/targets.sh

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
release_url=${ROTOR_RELEASE_URL:-https://example.invalid/rotor}
contact=${ROTOR_CONTACT:-security@example.invalid}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C PYTHONHASHSEED=0
dist=$PWD/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python="$cache/release/bin/python"
release_target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")/release-builds
declare -A outcome
impossible=75

main() {
    local wheels=yes names=()
    for argument in "$@"; do
        case $argument in
            --no-wheels) wheels=no ;;
            linux-amd64 | linux-arm64 | windows-amd64 | macos-arm64 | macos-amd64) names+=("$argument") ;;
            *) echo "release.sh: unknown name $argument" >&2 && exit 2 ;;
        esac
    done
    [ ${#names[@]} -gt 0 ] || names=(linux-amd64 linux-arm64 windows-amd64 macos-arm64 macos-amd64)
    rm -rf "$dist" && mkdir -p "$dist"
    tools
    completions
    for name in "${names[@]}"; do
        try "archive $name" archive "$name"
        [ $wheels = no ] || for wheel in $(wheels_of "$name"); do try "wheel $wheel" wheel "$wheel"; done
    done
    [ $wheels = no ] || try "source distribution" source_distribution
    (cd "$dist" && sha256sum -- *.tar.gz *.zip *.whl *.cdx.json 2>/dev/null >SHA256SUMS || true)
    fill_deploy
    report
}

# Runs a step and notes its outcome for the report; the next step runs whatever it was.
try() {
    local what=$1
    shift
    printf '\n== %s (%ss)\n' "$what" "$SECONDS"
    # In a condition, `set -e` would hold in nothing that the step calls.
    set +e
    (set -e; "$@")
    local code=$?
    set -e
    case $code in
        0) outcome[$what]=built ;;
        "$impossible") outcome[$what]="not possible here: $(cat "$work/reason")" ;;
        *) outcome[$what]=FAILED ;;
    esac
}

# Ends a step that this machine lacks something for.
not_possible() { echo "$1" | tee "$work/reason" && exit $impossible; }

# Zig links for other systems and other releases of glibc than this one's; maturin makes wheels.
tools() {
    have_standard_library_sources || { echo "needs rustc-web and rust-web-src (Debian packages)" >&2 && exit 1; }
    [ -x "$python" ] || python3 -m venv "$cache/release"
    "$python" -m pip install --quiet --disable-pip-version-check ziglang==0.17.1 cargo-zigbuild==0.24.1 maturin==1.16.0
    PATH="$cache/release/bin:$PATH"
    # No path of this machine ends up in a binary. Those of our own sources are relative to begin with.
    rustflags="--remap-path-prefix=$release_target=target --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
    rustflags+=" --remap-path-prefix=/usr/lib/rustlib/src/rust=rust"
    # The oldest macOS that rustc builds for on ARM; Zig would ask for its own default, 15.
    export MACOSX_DEPLOYMENT_TARGET=11.0
}

# Ends the step where what links for a target cannot be had. Zig, which links for all but Windows, has been installed by then.
needs_linker() {
    case $1 in
        "$windows") have_mingw || not_possible "it needs gcc-mingw-w64-x86-64 (a Debian package)" ;;
        *apple-darwin) have_objcopy || not_possible "it needs llvm-objcopy (Debian package llvm)" ;;
    esac
}

# rustc strips what it has linked for macOS by a program of this name, which rustup ships and Debian does not.
have_objcopy() {
    command -v llvm-objcopy >/dev/null || debian_install llvm || return 1
    ln -sf "$(command -v llvm-objcopy)" "$cache/release/bin/rust-objcopy"
}

# The target that cargo is asked for.
target_of() {
    case $1 in
        linux-amd64) echo x86_64-unknown-linux-musl ;;
        linux-arm64) echo aarch64-unknown-linux-musl ;;
        windows-amd64) echo $windows ;;
        macos-arm64) echo aarch64-apple-darwin ;;
        macos-amd64) echo x86_64-apple-darwin ;;
    esac
}

# The targets that wheels are made for: each has its own C library.
wheels_of() {
    case $1 in
        linux-amd64) echo x86_64-unknown-linux-gnu x86_64-unknown-linux-musl ;;
        linux-arm64) echo aarch64-unknown-linux-gnu aarch64-unknown-linux-musl ;;
        *) target_of "$1" ;;
    esac
}

# What all release builds have in common. Panics unwind: the thread pool carries one to its caller, and a server goes on after
# it. Symbols are stripped: they are a third of the file, and messages name what went wrong without them.
release_options=(--release --config 'profile.release.strip="symbols"')

archive() {
    local name=$1 target folder
    target=$(target_of "$name")
    needs_linker "$target"
    build_binary "$target"
    folder="$work/$name/rotor-$version"
    mkdir -p "$folder/completions"
    local binary=rotor
    [ "$target" != $windows ] || binary=rotor.exe
    install -m 755 "$release_target/$target/release/$binary" "$folder/$binary"
    cp LICENSE-MIT LICENSE-APACHE README.md CHANGELOG.md "$folder/"
    fill <SECURITY.md >"$folder/SECURITY.md"
    cp "$work"/completions/* "$folder/completions/"
    "$python" tools/sbom.py rotor-cli "$target" "$dist/rotor-$version-$name.cdx.json" "$folder/THIRD-PARTY.txt"
    find "$folder" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    if [ "$target" = $windows ]; then
        zip_folder "$folder" "$dist/rotor-$version-$name.zip"
    else
        tar --create --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --directory "$work/$name" "rotor-$version" |
            gzip --no-name --best >"$dist/rotor-$version-$name.tar.gz"
    fi
}

# The flags of rustc, the same for the command and the wheel of a target, so that the crates both are made of are compiled once.
flags_of() {
    case $1 in
        # Zig brings the start files and the C library.
        *musl) echo "$rustflags -Clink-self-contained=no" ;;
        # mingw's linker writes the time into the file unless told not to.
        "$windows") echo "$rustflags -Clink-arg=-Wl,--no-insert-timestamp" ;;
        *) echo "$rustflags" ;;
    esac
}

# Runs a command that builds with the given flags of rustc: with_flags FLAGS COMMAND...
with_flags() { RUSTC="$debian_rustc" RUSTC_BOOTSTRAP=1 RUSTFLAGS=$1 CARGO_TARGET_DIR=$release_target "${@:2}"; }

build_binary() {
    local target=$1 flags cargo=(cargo zigbuild) last=()
    flags=$(flags_of "$target")
    case $target in
        "$windows") cargo=(cargo build) ;;
        *musl)
            # A wheel is linked to musl dynamically, because Python has loaded it already: maturin adds this flag at the end. The
            # command is linked statically; of two such flags the last one holds.
            flags+=" -C target-feature=-crt-static"
            cargo=(cargo-zigbuild rustc --bin rotor) last=(-- -Ctarget-feature=+crt-static)
            ;;
    esac
    with_flags "$flags" "${cargo[@]}" --locked -Zbuild-std=std,panic_unwind --target "$target" --package rotor-cli \
        "${release_options[@]}" "${last[@]}"
}

# One wheel for every Python from 3.10 on.
wheel() {
    local target=$1 options=()
    needs_linker "$target"
    case $target in
        *linux-gnu) options=(--compatibility manylinux_2_28 --zig) ;;
        *linux-musl) options=(--compatibility musllinux_1_2 --zig) ;;
        *apple-darwin) options=(--zig) ;;
    esac
    with_flags "$(flags_of "$target")" maturin build --locked -Zbuild-std=std,panic_unwind --target "$target" \
        "${release_options[@]}" "${options[@]}" --out "$dist"
    "$python" tools/sbom.py rotor-python "$target" "$dist/rotor_bitnet-$version-$target.cdx.json" "$work/notices"
}

source_distribution() { maturin sdist --out "$dist"; }

# Made by the command itself, once, on this machine.
completions() {
    cargo build --quiet --release --locked --bin rotor
    mkdir -p "$work/completions"
    local rotor="${CARGO_TARGET_DIR:-target}/release/rotor"
    "$rotor" completions bash >"$work/completions/rotor.bash"
    "$rotor" completions zsh >"$work/completions/_rotor"
    "$rotor" completions fish >"$work/completions/rotor.fish"
    "$rotor" completions powershell >"$work/completions/rotor.ps1"
}

# A zip of a folder: names in order, the commit's time, nothing of this machine.
zip_folder() {
    "$python" - "$1" "$2" <<'PY'
import os, sys, time, zipfile
from pathlib import Path

folder, out = Path(sys.argv[1]), sys.argv[2]
moment = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), moment)
        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        archive.writestr(entry, path.read_bytes())
PY
}

# Replaces placeholders. A checksum of what was not built stays one, so that nobody publishes it.
fill() {
    local script="s|@VERSION@|$version|g;s|@ROTOR_RELEASE_URL@|$release_url|g;s|@ROTOR_CONTACT@|$contact|g"
    local name file sum placeholder
    for name in linux-amd64 linux-arm64 windows-amd64 macos-arm64 macos-amd64; do
        for file in "$dist/rotor-$version-$name".{tar.gz,zip}; do
            [ -e "$file" ] || continue
            sum=$(sha256sum "$file" | cut -d ' ' -f 1)
            placeholder=SHA256_${name//-/_}
            script+=";s|@${placeholder^^}@|$sum|g"
        done
    done
    sed "$script"
}

fill_deploy() {
    local file
    git ls-files deploy | while read -r file; do
        mkdir -p "$dist/$(dirname "$file")"
        # This one is about the placeholders.
        if [ "$file" = deploy/README.md ]; then cp "$file" "$dist/$file"; else fill <"$file" >"$dist/$file"; fi
        [ ! -x "$file" ] || chmod +x "$dist/$file"
    done
}

report() {
    printf '\n== dist/ (%ss)\n' "$SECONDS"
    (cd "$dist" && find . -maxdepth 1 -type f -printf '%s %f\n' | sort -k 2 | awk '{ printf "%12d  %s\n", $1, $2 }')
    printf '\n'
    local what
    for what in "${!outcome[@]}"; do printf '%-40s %s\n' "$what" "${outcome[$what]}"; done | sort
    [[ " ${outcome[*]} " != *" FAILED "* ]]
}

main "$@"
