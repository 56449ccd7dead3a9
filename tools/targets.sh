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
    # Wine takes the names of files for text in the encoding of the locale.
    export WINEPREFIX="$cache/wine" WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=" DISPLAY= LC_ALL=C.UTF-8
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
build_std() { debian_cargo "$1" -Zbuild-std=std,panic_unwind "${@:2}"; }

# The same for WebAssembly with a system interface, which has no threads and no mappings.
build_wasi() {
    local wasi="$cache/wasi"
    CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-Clinker=$wasi/wasm-ld -Clink-self-contained=no -Clink-arg=$wasi/crt1-command.o \
-Clink-arg=-L$wasi -Clink-arg=-lc -Clink-arg=-lzigc" debian_cargo "$@" -Zbuild-std=std,panic_abort --target wasm32-wasip1
}

windows_build() {
    build_std "$1" --target $windows "${quick[@]}" --workspace --exclude rotor-python --exclude rotor-ladders "${@:2}"
}

# Runs tests of the workspace on Windows; those of the command build the command too, with what the others need, so that nothing
# is compiled twice. Doctests are left out: they are compiled by rustdoc, which has no notion of a standard
# library that was just built. Python's part and the measuring programs of dev/ are no Rust tests.
windows_tests() {
    CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER="$PWD/tools/run_in_wine.sh" windows_build test --no-fail-fast "$@"
}

# The sum of what several test programs printed: test_counts LOG...
test_counts() {
    awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$@"
}

# The command that the tests have built: the built-in model says on Windows what it says here, and a person's first steps go well.
windows_smoke_test() {
    local rotor text
    rotor=$(realpath "$built/$windows/debug/rotor.exe")
    text=$(plainly wine "$rotor")
    same_text Windows "$text"
    in_a_folder windows_first_steps wine "$rotor"
}

windows_first_steps() {
    healthy "$@"
    first_steps "$@"
    windows_ctrl_c "$@"
}

# Ctrl-C, which Wine makes of SIGINT: a run ends after a whole line, a half-written file is removed, a server finishes.
windows_ctrl_c() {
    "$@" run "ein Modell.gguf" -p Hello -n -1 -c 100000 --ignore-eos </dev/null >text.txt 2>report.txt &
    interrupt 130 test -s text.txt
    [ -z "$(tail -c 1 text.txt)" ]
    grep --quiet "generated: " report.txt
    "$@" synth bitnet-large groß.gguf 2>/dev/null &
    interrupt 130 compgen -G '.groß.gguf.*.part'
    [ -z "$(find . -name '*groß*')" ]
    "$@" serve "ein Modell.gguf" --host 127.0.0.1 --port 18476 2>serve.txt &
    interrupt 0 "$@" serve --check http://127.0.0.1:18476
    echo "Ctrl-C ends a run, a write and a server"
}

# Sends SIGINT to the last background process as soon as a command succeeds, and expects its exit code: interrupt CODE COMMAND...
interrupt() {
    local expected=$1 process=$! code=0
    shift
    until "$@" >/dev/null 2>&1; do
        kill -0 $process || return 1
        sleep 0.1
    done
    kill -INT $process
    wait $process || code=$?
    [ $code = "$expected" ] || { echo "after Ctrl-C: expected exit code $expected, found $code" >&2 && return 1; }
}

# Runs a command in a folder of its own, whose name has a space and letters beyond ASCII; the folder is gone afterwards.
in_a_folder() (
    folder=$(mktemp -d "${TMPDIR:-/tmp}/rotor ünï XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    cd "$folder"
    "$@"
)

# What a person would try first. The arguments are how to run the command; the current folder is writable.
first_steps() {
    "$@" --version
    "$@" run -p "Once upon a time" -n 24 </dev/null
    echo
    "$@" synth tiny "ein Modell.gguf"
    "$@" convert "ein Modell.gguf" ternär.safetensors --type rotor --verify
    "$@" diff "ein Modell.gguf" ternär.safetensors
    "$@" inspect ternär.safetensors >inspect.txt
    printf 'One line.\r\nAnother line.\r\n' >lines.txt
    "$@" embed "ein Modell.gguf" lines.txt -o vectors.npy
    "$@" bench "ein Modell.gguf" -p 64 -n 8 -r 1
    served "$@"
}

# Whether the command finds every kernel of this processor right; its report is read where it does not.
healthy() { "$@" doctor >doctor.txt || { cat doctor.txt && return 1; }; }

# The server answers on loopback when it is asked whether it is well.
served() {
    "$@" serve "ein Modell.gguf" --host 127.0.0.1 --port 18473 2>serve.txt &
    local server=$! tries
    for tries in $(seq 60); do
        if "$@" serve --check http://127.0.0.1:18473 >/dev/null 2>&1; then
            kill $server && wait $server || true
            echo "serves" && return 0
        fi
        sleep 1
    done
    kill $server || true
    cat serve.txt >&2
    return 1
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
