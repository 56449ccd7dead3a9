#!/bin/sh
# Installs rotor: downloads the archive for this system, verifies its checksum, and puts the command into a folder.
#   sh install.sh [FOLDER]        default: ~/.local/bin
# ROTOR_RELEASE_URL may name another place for the archives, a folder too (file:///...).
set -eu

release_url=${ROTOR_RELEASE_URL:-@ROTOR_RELEASE_URL@}
version=@VERSION@
folder=${1:-$HOME/.local/bin}

fail() { echo "install.sh: $*" >&2; exit 1; }

case $(uname -s) in
    Linux) system=linux ;;
    Darwin) system=macos ;;
    *) fail "there is no archive for $(uname -s): build it with cargo, or see $release_url" ;;
esac
case $(uname -m) in
    x86_64 | amd64) machine=amd64 ;;
    aarch64 | arm64) machine=arm64 ;;
    *) fail "there is no archive for $(uname -m): build it with cargo, or see $release_url" ;;
esac
archive="rotor-$version-$system-$machine.tar.gz"

download() {
    # Unencrypted from this machine only.
    case $1 in
        http://127.0.0.1:*) protocol='=http' ;;
        *) protocol='=https' ;;
    esac
    case $1 in
        file://*) cp "${1#file://}" "$2" ;;
        *)
            if command -v curl >/dev/null; then
                curl --fail --silent --show-error --location --proto "$protocol" --tlsv1.2 --output "$2" "$1"
            elif [ "$protocol" = '=https' ] && command -v wget >/dev/null; then
                wget --quiet --https-only --output-document="$2" "$1"
            else
                fail "neither curl nor wget is there to download $1"
            fi
            ;;
    esac || fail "cannot download $1"
}

checksum() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1"
    elif command -v shasum >/dev/null; then
        shasum -a 256 "$1"
    else
        fail "neither sha256sum nor shasum is there to verify $archive"
    fi
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
download "$release_url/$archive" "$work/$archive"
download "$release_url/SHA256SUMS" "$work/SHA256SUMS"
expected=$(awk -v name="$archive" '$2 == name { print $1 }' "$work/SHA256SUMS")
[ -n "$expected" ] || fail "SHA256SUMS does not list $archive"
found=$(checksum "$work/$archive" | cut -d ' ' -f 1)
[ "$found" = "$expected" ] || fail "$archive: expected SHA-256 $expected, found $found; nothing was installed"

tar -xzf "$work/$archive" -C "$work"
mkdir -p "$folder"
# Under another name first: a rotor that is running keeps its file.
cp "$work/rotor-$version/rotor" "$folder/.rotor.new"
chmod 755 "$folder/.rotor.new"
mv -f "$folder/.rotor.new" "$folder/rotor"
"$folder/rotor" --version
case ":$PATH:" in
    *":$folder:"*) ;;
    *) echo "Add $folder to your PATH to run it as 'rotor'." ;;
esac
