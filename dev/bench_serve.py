"""What HTTP and JSON cost, and what a server makes of requests that come together.

Usage: bench_serve.py ROTOR [MODEL] [--streams 1,16] [--prompt 128] [--tokens 64] [--rounds 5] [--threads N]
                      [--beside COMMAND]
    cargo build --release --bin rotor
    target/release/rotor synth bitnet-2b-4t /tmp/2b.gguf
    python3 dev/bench_serve.py target/release/rotor /tmp/2b.gguf
    python3 dev/bench_serve.py target/release/rotor /tmp/2b.gguf \\
        --beside "llama-server -m /tmp/other.gguf --port {port} -t {threads} -tb {threads} -np {streams} -c 8192"
Without MODEL the built-in one. All programs take turns, and the client shares the cores with the servers; the figures
are medians over the rounds. Two things are measured for each number of streams:

1. A step. As many streams as are told generate together; a token's time is that of a step, shared by its streams, from
   the first token that came to the last, beside `rotor bench -b`, which computes the model alone (no tokens are chosen,
   nothing is written), and beside `rotor run`. What HTTP and JSON take is the processor time of the threads that do it,
   which other programs disturb little.
2. Requests that come and go: those of `rotor bench --streams` (ragged lengths, the likeliest tokens), sent as they come there,
   one before each step, with other random prompts in each round so that nothing is known from before. Tokens per second over
   all of it, beside the engine's own, and beside the other server's where one is named: its command has {port}, {streams} and
   {threads}, and it answers `/health` and `/v1/completions`.
"""

import argparse
import asyncio
import json
import os
import random
import shlex
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

median = statistics.median


class Answer(asyncio.Protocol):
    """Asks, and notes when each piece of the answer came. Nothing is parsed: the client is to take as little as it can of the
    cores that the servers compute on."""

    piece = b"data: {"

    def __init__(self, request: bytes, times: list[float], begun: Callable[[], None] | None) -> None:
        self.request, self.times, self.begun = request, times, begun
        self.rest = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        text = self.rest + data
        self.rest = text[1 - len(self.piece) :]
        if self.piece + b'"error"' in text and not self.ended.done():
            self.ended.set_exception(RuntimeError(text.decode(errors="replace")))
        now, known = time.perf_counter(), len(self.times)
        self.times.extend([now] * text.count(self.piece))
        if self.begun and known == 0 < len(self.times):
            self.begun()

    def connection_lost(self, exception: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def stream(port: int, body: dict[str, object], times: list[float], begun: Callable[[], None] | None = None) -> None:
    """Notes when each piece of an answer came, and tells of the first one."""
    text = json.dumps(body | {"ignore_eos": True, "stream": True})
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()
    loop = asyncio.get_running_loop()
    transport, answer = await loop.create_connection(lambda: Answer(request, times, begun), "127.0.0.1", port)
    await answer.ended
    transport.close()
    if not times:
        raise RuntimeError("a request was not answered")


class Step(NamedTuple):
    served: float
    first: float
    bench: float
    run: float | None
    http: float


async def in_step(port: int, count: int, tokens: int) -> tuple[float, float]:
    """Seconds of a token over all streams, and the median of the seconds to the first token."""
    body = {"prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0.8}
    times: list[list[float]] = [[] for _ in range(count)]
    begun = time.perf_counter()
    await asyncio.gather(*(stream(port, body, each) for each in times))
    first, last = max(each[0] for each in times), min(each[-1] for each in times)
    between = sum(sum(first <= at <= last for at in each) - 1 for each in times)
    return (last - first) / between, median(each[0] - begun for each in times)


class Load(NamedTuple):
    tokens_per_second: float
    requests_per_second: float
    first: list[float]
    between: list[float]


async def load(port: int, lengths: list[list[int]], seed: int) -> Load:
    """The requests, a further one at each first token: one waits before each step, as one of the engine's own does."""
    chosen = random.Random(seed)
    bodies = [
        {"prompt": [chosen.randrange(100, 900) for _ in range(prompt)], "max_tokens": generate, "temperature": 0}
        for prompt, generate in lengths
    ]
    times: list[list[float]] = [[] for _ in bodies]
    sent: list[float] = []
    places = asyncio.Semaphore(2)

    async with asyncio.TaskGroup() as answers:
        for body, each in zip(bodies, times, strict=True):
            await places.acquire()
            sent.append(time.perf_counter())
            answers.create_task(stream(port, body, each, places.release))
    took = time.perf_counter() - sent[0]
    return Load(
        sum(generate for _, generate in lengths) / took,
        len(lengths) / took,
        [each[0] - at for each, at in zip(times, sent, strict=True)],
        [later - earlier for each in times for earlier, later in zip(each, each[1:], strict=False)],
    )


def http_seconds(pid: int) -> float:
    """Processor time of the server's threads that speak HTTP, so far; 0 where the system does not tell."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        if (task / "comm").read_text().startswith("tokio"):
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def report(command: list[str]) -> dict:
    """The one JSON object that a command prints."""
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@contextmanager
def server(command: Callable[[int], list[str]]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server on a free port, from when it answers until the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                    break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise SystemExit(f"{command(port)[0]} ended with {process.returncode}") from None
                time.sleep(0.2)
        yield process, port
    finally:
        process.terminate()
        process.wait()


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.rotor: str = arguments.rotor
        self.model: list[str] = [arguments.model] if arguments.model else []
        self.threads = ["--threads", str(arguments.threads)]

    def step(self, process: subprocess.Popen[bytes], port: int, count: int) -> Step:
        tokens = self.arguments.tokens
        before = http_seconds(process.pid)
        served, first = asyncio.run(in_step(port, count, tokens))
        http = (http_seconds(process.pid) - before) / (count * tokens)
        shape = ["-p", "0", "-n", str(tokens), "-b", str(count), "-r", "3", "--json"]
        rates = report([self.rotor, "bench", *self.model, *shape, *self.threads])["results"][0]
        run = None
        if count == 1:
            request = ["-p", "Once upon a time", "-n", str(tokens), "--ignore-eos", "--temp", "0.8", "--json"]
            told = report([self.rotor, "run", *self.model, *request, *self.threads])
            run = 1 / told["timings"]["predicted_per_second"]
        return Step(served, first, 1 / rates["tokens_per_second"]["median"], run, http)

    def steps(self, process: subprocess.Popen[bytes], port: int, count: int) -> str:
        rows = [self.step(process, port, count) for _ in range(self.arguments.rounds)]
        text = (
            f"{count} streams in step: {median(row.served for row in rows) * 1e6:.0f} us a token served, "
            f"{median(row.bench for row in rows) * 1e6:.0f} us by rotor bench "
            f"(median of ratios {median(row.served / row.bench for row in rows):.3f}"
        )
        runs = [row.served / row.run for row in rows if row.run]
        text += f", to rotor run {median(runs):.3f})" if runs else ")"
        http, share = median(row.http for row in rows), median(row.http / row.served for row in rows)
        return f"{text}; HTTP and JSON take {http * 1e6:.1f} us of a core a token, {share:.2%} of its time"

    def engine(self, count: int) -> dict:
        shape = ["--streams", str(count), "-p", str(self.arguments.prompt), "-n", str(self.arguments.tokens)]
        told = report([self.rotor, "bench", *self.model, *shape, "-r", "1", "--json", *self.threads])
        return told["results"][0]

    def loads(self, port: int, count: int) -> Iterator[str]:
        """Requests that come and go: through the engine alone, the server, and the other server."""
        beside = shlex.split(self.arguments.beside or "")
        words = {"streams": count, "threads": self.arguments.threads}
        lengths = self.engine(count)["lengths"]
        alone: list[float] = []
        loads: list[list[Load]] = [[], []]

        def rounds(ports: list[int]) -> None:
            for seed in range(self.arguments.rounds + 1):
                alone.append(self.engine(count)["tokens_per_second"])
                for which, port in enumerate(ports):
                    loads[which].append(asyncio.run(load(port, lengths, seed * 1000 + count)))

        if beside:
            with server(lambda port: [word.format(port=port, **words) for word in beside]) as (_, other):
                rounds([port, other])
        else:
            rounds([port])
        # The first round warms up.
        alone, mine, others = alone[1:], loads[0][1:], loads[1][1:]
        ratio = median(load.tokens_per_second / alone for load, alone in zip(mine, alone, strict=True))
        yield f"{count} requests: {told_of(mine)}; {ratio:.3f} of the engine's own --streams"
        if others:
            ratio = median(
                a.tokens_per_second / b.tokens_per_second for a, b in zip(mine, others, strict=True)
            )
            yield f"    {Path(beside[0]).name}: {told_of(others)}; rotor makes {ratio:.2f} times its tokens"

    def all(self) -> None:
        command = [self.rotor, "serve", *self.model, *self.threads, "--port"]
        with server(lambda port: [*command, str(port)]) as (process, port):
            asyncio.run(in_step(port, 1, 8))
            for count in map(int, self.arguments.streams.split(",")):
                print(self.steps(process, port, count), flush=True)
                for line in self.loads(port, count):
                    print(line, flush=True)


def told_of(loads: list[Load]) -> str:
    def times(name: str) -> str:
        all_times = sorted(at for load in loads for at in getattr(load, name))
        if not all_times:
            return "-"
        return f"{median(all_times) * 1e3:.0f} and {all_times[(len(all_times) * 95 - 1) // 100] * 1e3:.0f} ms"

    return (
        f"{median(load.tokens_per_second for load in loads):.1f} tokens/s, "
        f"{median(load.requests_per_second for load in loads):.2f} requests/s, first token (median, 95 %) "
        f"{times('first')}, between tokens {times('between')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rotor")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--streams", default="1,16", help="streams at a time, separated by commas")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt, in the mean")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--beside", help="another server's command, with {port}, {streams} and {threads}")
    Bench(parser.parse_args()).all()


if __name__ == "__main__":
    main()
