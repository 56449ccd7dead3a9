# How rotor is built for systems other than this one, and run where that can be done. Sourced by ci_aarch64.sh, ci_targets.sh,
# nightly_windows.sh, release.sh and try_release.sh, from the root of the repository.
#
# rustup may not offer other targets' standard libraries, so they are built from Debian's copy of the sources, by Debian's
# rustc: a compiler and the sources of its library must be of one release.

debian_rustc=/usr/bin/rustc
debian_sources=/usr/lib/rustlib/src/rust/library
cache="${XDG_CACHE_HOME:-$HOME/.cache}/rotor-ci"
windows=x86_64-pc-windows-gnu
built="${CARGO_TARGET_DIR:-target}/debian"
# The crates we depend on are not worth optimising where only our own code is tested.
quick=(--config 'profile.dev.package."*".opt-level=0' --config 'profile.dev.debug=false')
mkdir -p "$cache"

# Whether Debian's rustc is the release that the workspace asks for, 1.x, or a later one.
debian_rustc_is_new_enough() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "1\.\([0-9]*\)"/\1/p' Cargo.toml)
    found=$("$debian_rustc" --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
    [ "${found:-0}" -ge "$wanted" ]
}

# Installs Debian packages, where there is apt and we are root. Whoever else is installing is waited for.
debian_install() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
    local tries
    for tries in 1 2 3 4 5 6; do
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install \
            --no-install-recommends "$@" >/dev/null && return 0
        [ "$tries" = 6 ] || sleep 10
    done 2>"$cache/apt.log"
    tail -n 3 "$cache/apt.log" >&2
    return 1
}

# Whether standard libraries can be built; installs what is missing.
have_standard_library_sources() {
    local complete='[ -d "$debian_sources" ] && debian_rustc_is_new_enough'
    eval "$complete" || { debian_install rustc-web rust-web-src && eval "$complete"; }
}

have_mingw() {
    command -v x86_64-w64-mingw32-gcc >/dev/null || debian_install gcc-mingw-w64-x86-64
}

# Whether Windows programs can be run here; makes Wine's own folder of Windows in the cache.
have_wine() {
    command -v wine >/dev/null && [ -x /usr/lib/wine/wine64 ] || debian_install wine wine64 || return 1
    export WINEPREFIX="$cache/wine" WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=" DISPLAY=
    [ -e "$WINEPREFIX/rotor-ready" ] && return 0
    rm -rf "$WINEPREFIX"
    wineboot --init >/dev/null 2>&1 &&
        wine reg add 'HKCU\Software\Wine' /v Version /d win10 /f >/dev/null &&
        random_numbers_for_wine "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" &&
        wineserver --wait && touch "$WINEPREFIX/rotor-ready"
}

# Wine 8 lacks the library that Rust takes random numbers from: this one asks Windows' older function. For tests only.
random_numbers_for_wine() {
    x86_64-w64-mingw32-gcc -shared -O1 -o "$1" -xc - -ladvapi32 <<'C'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) {
    for (; length > 1 << 30; length -= 1 << 30, data += 1 << 30)
        if (!SystemFunction036(data, 1 << 30)) return FALSE;
    return SystemFunction036(data, (ULONG)length);
}
C
}

# Whether WebAssembly can be linked. The linker and the C library of its system interface are Zig's, as a PyPI package ships it:
# Debian's library is older than what Rust's asks for.
have_wasi() {
    local python="$cache/zig/bin/python" wasi="$cache/wasi" file
    [ ! -x "$wasi/wasm-ld" ] || return 0
    { [ -x "$python" ] || python3 -m venv "$cache/zig"; } &&
        "$python" -m pip install --quiet --disable-pip-version-check ziglang==0.17.1 || return 1
    rm -rf "$wasi" && mkdir -p "$wasi"
    echo 'int main(void) { return 0; }' >"$wasi/main.c"
    # Linking anything builds the library; the command that links it says where it is.
    for file in $(ZIG_GLOBAL_CACHE_DIR="$cache/zig-cache" "$python" -m ziglang cc -v -target wasm32-wasi "$wasi/main.c" \
        -o "$wasi/main.wasm" 2>&1 | grep -o '/[^ ]*/\(crt1-command\.o\|libc\.a\|libzigc\.a\|libcompiler_rt\.a\)'); do
        cp "$file" "$wasi/" || return 1
    done
    # rustc says first which of its several command lines the linker is to understand: this one has only one.
    cat >"$wasi/wasm-ld" <<SH
#!/bin/sh
[ "\$1" != -flavor ] || shift 2
exec "$python" -m ziglang wasm-ld "\$@" "$wasi/libc.a" "$wasi/libzigc.a" "$wasi/libcompiler_rt.a"
SH
    [ -e "$wasi/libc.a" ] && chmod +x "$wasi/wasm-ld"
}

# cargo with Debian's compiler. `build_std` builds the target's standard library too; a warning about our own code is an error.
debian_cargo() {
    local command=$1
    shift
    RUSTC="$debian_rustc" RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/debian" \
        cargo "$command" --locked -Zwarnings --config 'build.warnings="deny"' "$@"
}
build_std() { debian_cargo "$@" -Zbuild-std=std,panic_unwind; }

# The same for WebAssembly with a system interface, which has no threads and no mappings.
build_wasi() {
    local wasi="$cache/wasi"
    CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-Clinker=$wasi/wasm-ld -Clink-self-contained=no -Clink-arg=$wasi/crt1-command.o \
-Clink-arg=-L$wasi -Clink-arg=-lc -Clink-arg=-lzigc" debian_cargo "$@" -Zbuild-std=std,panic_abort --target wasm32-wasip1
}

# A type check for macOS. No C is compiled: the objects of the crates that have some are needed by a linker only.
check_macos() {
    SDKROOT=/ CC_aarch64_apple_darwin=true AR_aarch64_apple_darwin=true \
        build_std check --target aarch64-apple-darwin "${quick[@]}" "$@"
}

# Runs a command of rotor, given as how to run it, with the plain kernels: each family adds floats in an order of its own.
plainly() { ROTOR_ISA=scalar "$@" run -p "Once upon a time" -n 16 </dev/null; }

# Fails unless a text is the one that the built-in model gives here: same_text SYSTEM TEXT.
same_text() {
    local here
    here=$(plainly cargo run --quiet --release --locked --bin rotor --)
    [ "$2" = "$here" ] || { echo "$1: expected the text '$here', found '$2'" >&2 && return 1; }
    echo "the built-in model says on $1 what it says here"
}
