"""What HTTP and JSON cost: tokens through `rotor serve`, beside those of `rotor bench` and `rotor run`.

Usage: bench_serve.py ROTOR [MODEL] [--streams 1,16] [--tokens 64] [--rounds 5] [--threads N]
    cargo build --release --bin rotor
    target/release/rotor synth bitnet-2b-4t /tmp/2b.gguf
    python3 dev/bench_serve.py target/release/rotor /tmp/2b.gguf
Without MODEL the built-in one. The programs take turns, and the client shares the cores with the server; the figures
are medians over the rounds. A token's time is that of a step, shared by its streams, from the first token that came to
the last. `rotor bench` computes the model alone: no tokens are chosen, nothing is written. What HTTP and JSON take is
the processor time of the threads that do it, which other programs disturb little.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import time
from pathlib import Path


async def stream(port: int, tokens: int, times: list[float]) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True, "stream": True, "temperature": 0.8}
    text = json.dumps(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            json.loads(line[6:])
            times.append(time.perf_counter())
    writer.close()


async def streams(port: int, count: int, tokens: int) -> tuple[float, list[float]]:
    """Seconds of a token over all streams, and the seconds to the first token of each."""
    times: list[list[float]] = [[] for _ in range(count)]
    begun = time.perf_counter()
    await asyncio.gather(*(stream(port, tokens, each) for each in times))
    first, last = max(each[0] for each in times), min(each[-1] for each in times)
    between = sum(sum(first <= at <= last for at in each) - 1 for each in times)
    return (last - first) / between, [each[0] - begun for each in times]


def http_seconds(pid: int) -> float:
    """Processor time of the server's threads that speak HTTP, so far; 0 where the system does not tell."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        if (task / "comm").read_text().startswith("tokio"):
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def bench(rotor: str, model: list[str], count: int, tokens: int, threads: list[str]) -> float:
    """Seconds of a token by `rotor bench`."""
    command = [rotor, "bench", *model, "-p", "0", "-n", str(tokens), "-b", str(count), "-r", "5", "--json", *threads]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return 1 / report["results"][0]["tokens_per_second"]["median"]


def run(rotor: str, model: list[str], tokens: int, threads: list[str]) -> float:
    """Seconds of a token by `rotor run`, which chooses tokens as the server does and writes them once."""
    command = [rotor, "run", *model, "-p", "Once upon a time", "-n", str(tokens), "--ignore-eos", "--temp", "0.8"]
    output = subprocess.run([*command, "--json", *threads], check=True, capture_output=True, text=True).stdout
    return 1 / json.loads(output)["timings"]["predicted_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rotor")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--streams", default="1,16", help="streams at a time, separated by commas")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    threads = ["--threads", str(arguments.threads)]
    model = [arguments.model] if arguments.model else []
    command = [arguments.rotor, "serve", *model, "--port", "0", "--json", *threads]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = json.loads(server.stdout.readline())["port"]
        asyncio.run(streams(port, 1, 8))
        for count in map(int, arguments.streams.split(",")):
            rows = []
            for _ in range(arguments.rounds):
                before = http_seconds(server.pid)
                served, first = asyncio.run(streams(port, count, arguments.tokens))
                http = (http_seconds(server.pid) - before) / (count * arguments.tokens)
                alone = bench(arguments.rotor, model, count, arguments.tokens, threads)
                chosen = run(arguments.rotor, model, arguments.tokens, threads) if count == 1 else None
                rows.append((served, alone, chosen, statistics.median(first), http))
            medians = [statistics.median(column) for column in list(zip(*rows, strict=True))[:2]]
            told = (
                f"{count} streams: {medians[0] * 1e6:.0f} us a token served, {medians[1] * 1e6:.0f} us by rotor bench"
            )
            ratio = statistics.median(served / alone for served, alone, *_ in rows)
            told += (
                f" (median of ratios {ratio:.3f}, {statistics.median(s - a for s, a, *_ in rows) * 1e6:.0f} us apart)"
            )
            if rows[0][2] is not None:
                told += f", {statistics.median(row[2] for row in rows) * 1e6:.0f} us by rotor run"
                told += f" (median of ratios {statistics.median(row[0] / row[2] for row in rows):.3f})"
            told += f"; HTTP and JSON take {statistics.median(row[4] for row in rows) * 1e6:.1f} us of a core a token"
            print(f"{told}; first token after {statistics.median(row[3] for row in rows) * 1e3:.1f} ms", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
