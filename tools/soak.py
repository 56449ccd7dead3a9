#!/usr/bin/env python3
"""Mixed requests against `rotor serve`, many at a time: tools/soak.py ROTOR [--requests N] [--seconds N] [--clients N]

Starts a server with three models of which two may be loaded at a time, and asks it in the dialects of OpenAI, Anthropic
and llama-server. A tenth of the clients leaves in mid-stream, a twentieth sends what is malformed, some send far too
much. Fails if a request is not answered, is answered with another status than is due, or with another text than it gets
alone; if a block of keys and values stays in use when nobody is left; or if resident memory grows from the first to the
second half.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

MODELS = ["first", "second", "third"]
PATIENCE = 120.0
# Growth of resident memory that is no leak: what allocators and caches keep, in bytes.
SLACK = 48 << 20
# A body beyond the server's limit of 32 MiB.
TOO_LARGE = (32 << 20) + 1


class Server:
    """A server and the plainest client of it: a connection for each request."""

    def __init__(self, process, port):
        self.process = process
        self.port = port

    async def send(self, method, path, body, leave_after=None):
        """Returns status and body; None for both where the client left, after so many bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            try:
                await writer.drain()
            except ConnectionError:
                pass  # The server may answer before it has read all.
            if leave_after is not None:
                await reader.read(leave_after)
                return None, None
            answer = await reader.read(-1)
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = unchunked(body)
        return int(head.split(b" ", 2)[1]), body

    async def send_until_taken(self, method, path, body, leave_after=None):
        """As `send`, again for as long as every model that may be loaded is in use."""
        while True:
            status, answer = await asyncio.wait_for(self.send(method, path, body, leave_after), PATIENCE)
            if status != 429:
                return status, answer
            await asyncio.sleep(0.2)

    async def ask(self, method, path, value=None, leave_after=None):
        body = b"" if value is None else json.dumps(value).encode()
        return await self.send_until_taken(method, path, body, leave_after)

    def resident(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the system does not tell the resident memory")


def unchunked(body):
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        size = int(size, 16)
        out += rest[:size]
        body = rest[size + 2 :]
    return out


def events(body):
    lines = (line[6:] for line in body.decode().splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat_text(body):
    return json.loads(body)["choices"][0]["message"]["content"]


def chat_stream_text(body):
    assert body.decode().rstrip().endswith("data: [DONE]"), "a stream without its end"
    choices = (chunk["choices"][0] for chunk in events(body) if chunk["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def completion_text(body):
    return json.loads(body)["choices"][0]["text"]


def messages_text(body):
    return "".join(block["text"] for block in json.loads(body)["content"] if block["type"] == "text")


def messages_stream_text(body):
    found = events(body)
    assert found[-1]["type"] == "message_stop", "a stream without its end"
    return "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta")


def responses_text(body):
    items = json.loads(body)["output"]
    return "".join(part["text"] for item in items for part in item.get("content", []))


def responses_stream_text(body):
    found = events(body)
    assert found[-1]["type"] in ("response.completed", "response.incomplete"), "a stream without its end"
    return "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")


def embedding(body):
    return json.loads(body)["data"][0]["embedding"]


def tokens(body):
    return json.loads(body)["tokens"]


def requests(rng, count):
    """Requests as path, body, and what to compare of the answer."""
    words = "the old king went down to the river and saw a small white house under the hill where nobody lived".split()
    made = []
    for index in range(count):
        text = " ".join(rng.choice(words) for _ in range(rng.randrange(3, 90)))
        model = MODELS[index % len(MODELS)] if index % 4 == 3 else MODELS[0]
        conversation = {"model": model, "messages": [{"role": "user", "content": text}]}
        sampling = {"temperature": 0.9, "max_tokens": rng.randrange(4, 40), "seed": index}
        # Anthropic's dialect has no seed: only the likeliest token is the same each time.
        greedy = {"temperature": 0, "max_tokens": sampling["max_tokens"]}
        response = {"model": model, "input": text, "temperature": 0.9, "seed": index}
        response["max_output_tokens"] = sampling["max_tokens"]
        stream = {"stream": True}
        made.append(
            [
                ("/v1/chat/completions", conversation | sampling, chat_text),
                ("/v1/chat/completions", conversation | sampling | stream, chat_stream_text),
                ("/v1/completions", {"model": model, "prompt": text} | sampling, completion_text),
                ("/v1/messages", conversation | greedy, messages_text),
                ("/v1/messages", conversation | greedy | stream, messages_stream_text),
                ("/v1/responses", response, responses_text),
                ("/v1/responses", response | stream, responses_stream_text),
                ("/v1/embeddings", {"model": model, "input": text}, embedding),
                ("/tokenize", {"model": model, "content": text}, tokens),
            ][index % 9]
        )
    return made


MALFORMED = [
    ("/v1/chat/completions", b"{", 400),
    ("/v1/chat/completions", b'{"messages": []}', 400),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "temperature": -1}', 400),
    ("/v1/chat/completions", b'{"model": "nobody", "messages": [{"role": "user", "content": "a"}]}', 404),
    ("/v1/completions", b'{"prompt": "a", "max_tokens": -5}', 400),
    ("/v1/messages", b'{"messages": [{"role": "user", "content": "a"}]}', 400),
    ("/v1/messages", b'{"max_tokens": 4, "messages": [{"role": "user", "content": "\xff"}]}', 400),
    ("/v1/responses", b'{"input": [{"type": "item_reference", "id": "x"}]}', 400),
    ("/v1/responses", b'{"input": "a", "previous_response_id": "x"}', 400),
    ("/v1/embeddings", b"[" * 300, 400),
    ("/v1/nothing", b"{}", 404),
    ("/health", b"{}", 405),
]


class Soak:
    def __init__(self, server, rng, expected, limit, seconds):
        self.server = server
        self.rng = rng
        self.expected = expected
        self.limit = limit
        self.end = time.monotonic() + seconds
        self.counts = {"answered": 0, "left": 0, "malformed": 0, "too large": 0}
        self.begun = 0
        self.failures = []
        self.resident = []

    async def client(self):
        while self.begun < self.limit and time.monotonic() < self.end and not self.failures:
            self.begun += 1
            if self.begun % max(self.limit // 40, 1) == 0:
                self.resident.append(self.server.resident())
            try:
                await self.one(self.begun)
            except Exception as error:
                self.failures.append(f"request {self.begun}: {type(error).__name__}: {error}")

    async def one(self, number):
        kind = self.rng.random()
        if number % 400 == 0:
            status, _ = await self.server.ask("POST", "/tokenize", {"content": "a" * TOO_LARGE})
            self.due("too large", "a body beyond the limit", status, 413)
        elif kind < 0.02:
            messages = [{"role": "user", "content": "word " * 3000}]
            status, _ = await self.server.ask(
                "POST", "/v1/chat/completions", {"model": MODELS[0], "messages": messages}
            )
            self.due("too large", "a prompt beyond the context", status, 400)
        elif kind < 0.07:
            path, body, due = self.rng.choice(MALFORMED)
            status, _ = await self.server.send_until_taken("POST", path, body)
            self.due("malformed", f"{path} {body[:60]!r}", status, due)
        elif kind < 0.17:
            streamed = [request for request, _ in self.expected if request[1].get("stream")]
            path, value, _ = self.rng.choice(streamed)
            await self.server.ask("POST", path, value | {"max_tokens": 200}, leave_after=self.rng.randrange(0, 2000))
            self.counts["left"] += 1
        else:
            (path, value, read), alone = self.rng.choice(self.expected)
            status, body = await self.server.ask("POST", path, value)
            self.due("answered", f"{path} {value}: {body[:200]!r}", status, 200)
            if read(body) != alone:
                self.failures.append(f"{path} {value} got {read(body)!r}, and alone {alone!r}")

    def due(self, what, request, status, due):
        self.counts[what] += 1
        if status != due:
            self.failures.append(f"{request} was answered with {status} and not {due}")


async def settled(server):
    """What is still in use, once nothing is under way any more."""
    for _ in range(200):
        status, body = await server.ask("GET", "/rotor/requests")
        state = json.loads(body)
        used = {kv["model"]: kv["used"] for kv in state["kv"] if kv["used"]}
        if status == 200 and not state["running"] and not state["waiting"] and not used:
            return None
        await asyncio.sleep(0.1)
    return f"{len(state['running'])} requests run, {len(state['waiting'])} wait, and blocks are in use: {used}"


def memory_fault(resident):
    """Memory of the second half against that of the first, the beginning, when models are new, left out."""
    warm = resident[len(resident) // 4 :]
    half = len(warm) // 2
    if half < 4:
        return None
    before, after = sorted(warm[:half])[half // 2], sorted(warm[half:])[half // 2]
    if after > before + SLACK:
        return f"resident memory grew from {before >> 20} to {after >> 20} MiB"
    return None


async def run(arguments, folder):
    paths = [folder / f"{name}.gguf" for name in MODELS]
    model = Path(__file__).parent.parent / "crates/rotor-engine/models/rotor-tiny.gguf"
    for path in paths:
        shutil.copy(model, path)
    options = ["serve", *paths, "--port", "0", "--json", "--max-models", "2", "--idle-unload", "5"]
    with open(folder / "log", "wb") as log:
        process = await asyncio.create_subprocess_exec(
            arguments.rotor, *options, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        server = Server(process, json.loads(await process.stdout.readline())["port"])
        rng = random.Random(arguments.seed)
        made = requests(rng, 72)
        expected = []
        for path, value, read in made:
            status, body = await server.ask("POST", path, value)
            assert status == 200, f"{path} {value}: {status} {body}"
            expected.append(((path, value, read), read(body)))
        begun = time.monotonic()
        soak = Soak(server, rng, expected, arguments.requests, arguments.seconds)
        await asyncio.gather(*(soak.client() for _ in range(arguments.clients)))
        seconds = time.monotonic() - begun
        faults = soak.failures + [fault for fault in (await settled(server), memory_fault(soak.resident)) if fault]
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), PATIENCE)
        if code != 0:
            faults.append(f"the server ended with {code}")
        log = (folder / "log").read_text()
        loads = log.count("model loaded")
        if "panicked" in log:
            faults.append("a thread of the server panicked: " + log[log.index("panicked") - 100 :][:600])
        told = ", ".join(f"{count} {what}" for what, count in soak.counts.items())
        memory = f"{soak.resident[-1] >> 20} MiB" if soak.resident else "unknown memory"
        print(f"{soak.begun} requests in {seconds:.0f} s: {told}; models were loaded {loads} times; {memory}")
        for fault in faults[:10]:
            print(f"FAILED: {fault}", file=sys.stderr)
        return 1 if faults else 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rotor", help="path of the rotor binary", type=os.path.abspath)
    parser.add_argument("--requests", type=int, default=5000, help="requests at most (default: 5000)")
    parser.add_argument("--seconds", type=float, default=3600, help="seconds at most (default: an hour)")
    parser.add_argument("--clients", type=int, default=24, help="clients at a time (default: 24)")
    parser.add_argument("--seed", type=int, default=1, help="which requests (default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(asyncio.run(run(arguments, Path(folder))))


if __name__ == "__main__":
    main()
