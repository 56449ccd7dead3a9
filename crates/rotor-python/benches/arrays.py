"""Speed of the array functions, as ratios: to copying the same bytes, to numpy's product, to the kernel called by Rust.

    python crates/rotor-python/benches/arrays.py

Needs the installed package, and cargo for the last ratio. Each figure is the median of rounds in which everything that
is compared takes its turn; in a round the fastest of many calls counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import rotor
from rotor.bitnet import bitnet_to_rotor, decode_bitnet_array, encode_bitnet_array, rotor_to_bitnet
from rotor.core import RotorCore

REPOSITORY = Path(__file__).parents[3]


def fastest(call: Callable[[], object], calls: int) -> float:
    """Seconds of the fastest of so many calls."""
    best = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def report(what: str, seconds: list[float], against: str, reference: list[float], per: str) -> None:
    """One line: both medians, and the median of the rounds' ratios as ``per`` puts it."""
    ratios = [one / other for one, other in zip(seconds, reference, strict=True)]
    if per == "faster":
        ratios = [1 / ratio for ratio in ratios]
    times = f"{1e6 * statistics.median(seconds):9.1f} us, {against} {1e6 * statistics.median(reference):9.1f} us"
    print(f"{what:28} {times}: {statistics.median(ratios):7.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def conversions(rounds: int) -> None:
    print("\nconversion of 1024 x 4096 weights, time in copies (numpy.copyto) of the bytes that it reads and writes")
    weights = rotor.synth.create_bitnet_layer(1024, 4096, zeros=0.4, seed=1)
    codes = encode_bitnet_array(weights)
    bit0, bit1 = bitnet_to_rotor(codes)
    calls: list[tuple[str, Callable[[], object], int]] = [
        ("bitnet_to_rotor", lambda: bitnet_to_rotor(codes), codes.nbytes),
        ("rotor_to_bitnet", lambda: rotor_to_bitnet(bit0, bit1), codes.nbytes),
        ("encode_bitnet_array", lambda: encode_bitnet_array(weights), weights.nbytes),
        ("decode_bitnet_array", lambda: decode_bitnet_array(codes), weights.nbytes),
        ("RotorCore.encode", lambda: RotorCore.encode(weights), weights.nbytes),
        ("RotorCore.decode", lambda: RotorCore.decode(bit0, bit1), weights.nbytes),
    ]
    for name, call, size in calls:
        source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
        times = [(fastest(call, 40), fastest(lambda: np.copyto(target, source), 40)) for _ in range(rounds)]  # noqa: B023
        report(name, [one for one, _ in times], "copy", [other for _, other in times], "copies")


def products(rounds: int) -> None:
    print("\nproducts with int8 activations, how many times faster than numpy's int32 product")
    rng = np.random.default_rng(2)
    for rows, cols in [(1024, 4096), (2560, 6912)]:
        weights = rotor.synth.create_bitnet_layer(rows, cols, zeros=0.4, seed=2)
        bit0, bit1 = RotorCore.encode(weights)
        packed, wide = RotorCore.pack(bit0, bit1), weights.astype(np.int32)
        for transpose in (False, True):
            x = rng.integers(-128, 128, rows if transpose else cols, dtype=np.int8)
            long = x.astype(np.int32)
            with_numpy: Callable[[], object] = (lambda: long @ wide) if transpose else (lambda: wide @ long)  # noqa: B023
            stateless = lambda: RotorCore.matvec(bit0, bit1, x, transpose=transpose)  # noqa: B023, E731
            repeated = lambda: packed.matvec(x, transpose=transpose)  # noqa: B023, E731
            repeated()
            times = [(fastest(stateless, 40), fastest(repeated, 40), fastest(with_numpy, 4)) for _ in range(rounds)]
            product = f"{'x @ W' if transpose else 'W @ x'}, {rows} x {cols}"
            numpy_times = [one for _, _, one in times]
            report(f"matvec, {product}", [one for one, _, _ in times], "numpy", numpy_times, "faster")
            report(f"packed, {product}", [one for _, one, _ in times], "numpy", numpy_times, "faster")


def kernel(rounds: int) -> None:
    print("\npacked product of 2560 x 6912 weights through Python, time in times of the same product from Rust")
    packed = RotorCore.pack(*RotorCore.encode(rotor.synth.create_bitnet_layer(2560, 6912, zeros=0.4, seed=3)))
    x = np.random.default_rng(3).integers(-128, 128, 6912, dtype=np.int8)
    command = ["cargo", "bench", "--quiet", "--package", "rotor-python", "--bench", "packed", "--"]
    rust = subprocess.Popen(
        [*command, str(rotor.threads())], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert rust.stdin is not None and rust.stdout is not None
    times = []
    for _ in range(rounds + 1):
        print(file=rust.stdin, flush=True)
        alone, whole = map(float, rust.stdout.readline().split())
        times.append((fastest(lambda: packed.matvec(x), 100), alone, whole))
    rust.stdin.close()
    rust.wait()
    # The first round waited for the compiler and warmed everything up.
    ours, alone, whole = (list(column) for column in zip(*times[1:], strict=True))
    report("against the kernel alone", ours, "Rust", alone, "times")
    report("with the activations' part", ours, "Rust", whole, "times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="threads of the pool; by default one per core")
    parser.add_argument("--only", choices=["conversions", "products", "kernel"])
    arguments = parser.parse_args()
    if arguments.threads is not None:
        rotor.threads(arguments.threads)
    print(f"rotor {rotor.__version__}, {rotor.isa()}, {rotor.threads()} threads, numpy {np.__version__}")
    for part in (conversions, products, kernel):
        if arguments.only in (None, part.__name__):
            part(arguments.rounds)


if __name__ == "__main__":
    main()
