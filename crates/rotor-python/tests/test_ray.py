"""A local Ray cluster of several processes: nothing is lost, whoever dies.

Ray Serve starts and stops processes in its own good time, minutes where cores are few: its tests are ``slow``, and run by

    python -m pytest -m slow
"""

import asyncio
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import rotor

ray = pytest.importorskip("ray", reason="ray is not installed: rotor.ray was not tested")

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = [f"Story number {index}" for index in range(40)]

ADDRESS = "http://127.0.0.1:8000/"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Workers cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def die_once(mark: Path) -> None:
    """Kills this process, the hard way, unless that was done before."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dataset_survives_a_worker_that_dies(cluster: None, tiny: Path, tmp_path: Path):
    from rotor.ray import Generator, generate

    class Mortal(Generator):
        """Dies once, in the middle of a batch, and notes how many threads it computes on."""

        def generate(self, prompt):
            (tmp_path / f"worker-{os.getpid()}").write_text(str(rotor.threads()))
            if prompt == PROMPTS[17]:
                die_once(tmp_path / "died")
            return super().generate(prompt)

    rows = [{"prompt": prompt, "index": index} for index, prompt in enumerate(PROMPTS)]
    rows[5]["prompt"] = "x " * 5000
    found = generate(ray.data.from_items(rows), str(tiny), workers=(1, 2), batch_size=4, worker=Mortal, max_tokens=8)
    found = found.take_all()
    assert (tmp_path / "died").exists()
    workers = [path.read_text() for path in tmp_path.glob("worker-*")]
    assert len(workers) >= 2 and set(workers) == {"1"}
    assert [row["index"] for row in found] == list(range(len(PROMPTS)))
    assert found[5]["text"] is None and "but the context holds" in found[5]["error"]
    with rotor.Model.load(tiny) as model:
        for row in found[:5] + found[6:]:
            assert row["error"] is None and row["text"] == model.generate(row["prompt"], max_tokens=8)


def test_a_dataset_may_hold_conversations(cluster: None, tiny: Path):
    from rotor.ray import generate

    rows = [{"talk": [{"role": "user", "content": prompt}]} for prompt in PROMPTS[:3]]
    found = generate(ray.data.from_items(rows), str(tiny), workers=1, prompt="talk", text="answer", max_tokens=4)
    with rotor.Model.load(tiny) as model:
        expected = [model.chat(row["talk"], max_tokens=4) for row in rows]
    assert [row["answer"] for row in found.take_all()] == expected


def test_a_failure_that_may_pass_is_tried_again(tiny: Path):
    from rotor.ray import Generator

    class Shaky(Generator):
        calls = 0

        def generate(self, prompt):
            self.calls += 1
            if self.calls < 3:
                raise MemoryError("not now")
            return super().generate(prompt)

    batch = {"prompt": np.array(["Once"], dtype=object)}
    worker = Shaky(str(tiny), threads=rotor.threads(), options={"max_tokens": 2})
    assert worker(batch)["error"].tolist() == [None]
    worker.calls = -10
    assert worker(batch)["error"].tolist() == ["MemoryError: not now"]
    worker.calls = 3
    assert worker({"prompt": np.array([3], dtype=object)})["error"][0].startswith("TypeError: a prompt must be")


REFUSED = [{}, {"prompt": "x", "messages": []}, {"prompt": "x", "temprature": 1}, {"prompt": 3}, [1]]


def test_the_service_answers_streams_and_refuses(tiny: Path):
    """Without Serve: what a replica does with a request."""
    from starlette.requests import Request
    from starlette.responses import StreamingResponse

    from rotor.ray import Service

    service = Service(str(tiny), threads=rotor.threads(), load={})

    async def ask(body: object) -> tuple[int, str]:
        async def receive():
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

        response = await service(Request({"type": "http", "method": "POST", "headers": []}, receive))
        if isinstance(response, StreamingResponse):
            return response.status_code, "".join([piece async for piece in response.body_iterator])
        return response.status_code, bytes(response.body).decode()

    with rotor.Model.load(tiny) as model:
        check_answers(model, lambda body: asyncio.run(ask(body)))


def check_answers(model: rotor.Model, ask: Callable[[object], tuple[int, str]]) -> None:
    """Asks as over HTTP: JSON in, a status and a text out."""
    expected = model.generate("Once", max_tokens=12)
    status, text = ask({"prompt": "Once", "max_tokens": 12})
    assert status == 200
    assert json.loads(text) == {"text": str(expected), "finish_reason": "length", "tokens": 12}
    status, text = ask({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "stream": True})
    lines = text.split("\n\n")
    assert status == 200 and lines[-2:] == ["data: [DONE]", ""]
    answer = model.chat("Hello", max_tokens=12)
    assert "".join(json.loads(line.removeprefix("data: "))["text"] for line in lines[:-2]) == answer
    for wrong in REFUSED:
        status, text = ask(wrong)
        assert status == 400 and json.loads(text)["error"]


def ask_by_http(body: object) -> tuple[int, str]:
    """Posts JSON and returns the status and the answer."""
    request = urllib.request.Request(ADDRESS, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_a_deployment_answers_and_streams(cluster: None, tiny: Path):
    from ray import serve

    from rotor.ray import deployment

    try:
        handle = serve.run(deployment(str(tiny), replicas=(1, 1)))
        with rotor.Model.load(tiny) as model:
            expected = model.generate("Once", max_tokens=12)
            assert handle.generate.remote("Once", max_tokens=12).result()["text"] == expected
            pieces = list(handle.options(stream=True).stream.remote("Once", max_tokens=12))
            assert len(pieces) > 1 and "".join(pieces) == expected
            check_answers(model, ask_by_http)
    finally:
        serve.shutdown()


@pytest.mark.slow
def test_a_deployment_grows_and_survives_a_replica_that_dies(cluster: None, tiny: Path):
    from ray import serve

    from rotor.ray import Service, deployment

    class Known(Service):
        """Tells which process it is before it answers."""

        async def stream(self, prompt, **options):
            yield f"{os.getpid()} "
            async for piece in super().stream(prompt, **options):
                yield piece

    quick = {"upscale_delay_s": 0.5, "metrics_interval_s": 0.2, "look_back_period_s": 1}
    application = deployment(
        str(tiny), replicas=(1, 2), ongoing=1, autoscaling=quick, service=Known, load={"context": 100_000}
    )
    try:
        handle = serve.run(application).options(stream=True)
        # Its first piece has arrived, so Serve cannot give the request to another replica.
        endless = iter(handle.stream.remote("die", max_tokens=90_000, ignore_eos=True))
        dead = next(endless).strip()
        os.kill(int(dead), signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayActorError):
            for _ in endless:
                pass
        with rotor.Model.load(tiny) as model:
            expected = model.generate("die", max_tokens=8)
        process, text = "".join(handle.stream.remote("die", max_tokens=8)).split(" ", 1)
        assert text == expected and process != dead
        # As long as there is more to do than one replica is for, until another has its share.
        processes, deadline = {process}, time.monotonic() + 240
        while len(processes) < 2 and time.monotonic() < deadline:
            answers = [handle.stream.remote("Once", max_tokens=200, ignore_eos=True) for _ in range(6)]
            processes |= {"".join(answer).split(" ", 1)[0] for answer in answers}
        assert len(processes) == 2
    finally:
        serve.shutdown()
