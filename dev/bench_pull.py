"""How fast rotor pull is, hashing included, against curl followed by sync, and by sha256sum.

Usage: bench_pull.py ROTOR HUB [--rounds 5] [--megabytes 1000] [--disk DIR] [--memory /dev/shm]
    cargo build --release --bin rotor && cargo build --release -p rotor-hub --example hub
    python3 dev/bench_pull.py target/release/rotor target/release/examples/hub
HUB serves the file from memory on loopback and shares the cores with whoever fetches it. The programs take turns; the
figures are medians.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path


def cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown")
    return f"{name}, {os.cpu_count()} cores, {'with' if ' sha_ni' in text else 'without'} SHA instructions"


def timed(command: str, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        ["sh", "-c", command], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rotor", type=Path), parser.add_argument("hub", type=Path)
    parser.add_argument("--rounds", type=int, default=5), parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--disk", default=tempfile.gettempdir()), parser.add_argument("--memory", default="/dev/shm")
    args = parser.parse_args()
    rotor, hub = args.rotor.resolve(), args.hub.resolve()
    size = args.megabytes * 1_000_000
    with tempfile.TemporaryDirectory(dir=args.memory) as source:
        repository = Path(source) / "org" / "big"
        repository.mkdir(parents=True)
        with open(repository / "big-i2_s.gguf", "wb") as file:
            for _ in range(args.megabytes):
                file.write(os.urandom(1_000_000))
        server = subprocess.Popen([hub, source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().strip()
            report = {"cpu": cpu(), "bytes": size}
            for where, folder in (("disk", args.disk), ("memory", args.memory)):
                with tempfile.TemporaryDirectory(dir=folder) as work:
                    report[where] = measure(rotor, url, Path(work), args.rounds, size)
        finally:
            server.communicate()
    # Of all children; curl and sha256sum take next to nothing.
    report["most_memory_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    print(json.dumps(report, indent=2))


def measure(rotor: Path, url: str, work: Path, rounds: int, size: int) -> dict[str, float]:
    home, file = work / "home", work / "file"
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": url}
    curl = f"curl -sfL -o {file} {url}/org/big/resolve/main/big-i2_s.gguf"
    commands = {
        "rotor pull": f"{rotor} pull org/big --any",
        "curl": curl,
        "curl, sync": f"{curl} && sync {file}",
        "curl, sha256sum": f"{curl} && sha256sum {file}",
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(rounds + 1):
        for name, command in commands.items():
            shutil.rmtree(home, ignore_errors=True)
            file.unlink(missing_ok=True)
            os.sync()
            taken = timed(command, environment)
            # The first round warms the hub up, which hashes its files when it is asked first.
            if round_ > 0:
                seconds[name].append(taken)
    return {f"{name}, MB/s": round(size / 1e6 / statistics.median(taken)) for name, taken in seconds.items()}


main()
