"""A local Ray cluster of several processes: nothing is lost, whoever dies."""

import json
import os
import signal
from pathlib import Path

import pytest

import rotor

ray = pytest.importorskip("ray", reason="ray is not installed: rotor.ray was not tested")

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = [f"Story number {index}" for index in range(40)]


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def test_a_dataset_survives_a_worker_that_dies(cluster: None, tiny: Path, tmp_path: Path):
    from rotor.ray import Generator, generate

    class Mortal(Generator):
        """Dies once, in the middle of a batch, the hard way."""

        def generate(self, prompt):
            try:
                if prompt == PROMPTS[17]:
                    (tmp_path / "died").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
            return super().generate(prompt)

    rows = [{"prompt": prompt, "index": index} for index, prompt in enumerate(PROMPTS)]
    rows[5]["prompt"] = "x " * 5000
    found = generate(ray.data.from_items(rows), str(tiny), workers=(1, 2), batch_size=4, worker=Mortal, max_tokens=8)
    found = found.take_all()
    assert (tmp_path / "died").exists()
    assert [row["index"] for row in found] == list(range(len(PROMPTS)))
    assert found[5]["text"] is None and "but the context holds" in found[5]["error"]
    with rotor.Model.load(tiny) as model:
        for row in found[:5] + found[6:]:
            assert row["error"] is None and row["text"] == model.generate(row["prompt"], max_tokens=8)


def test_a_failure_that_may_pass_is_tried_again(tiny: Path):
    import numpy as np

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


def test_a_deployment_answers_and_streams(cluster: None, tiny: Path):
    from ray import serve

    from rotor.ray import deployment

    httpx = pytest.importorskip("httpx", reason="httpx is not installed: rotor.ray's HTTP was not tested")
    try:
        handle = serve.run(deployment(str(tiny), replicas=(1, 1)))
        url = "http://127.0.0.1:8000/"
        with rotor.Model.load(tiny) as model:
            expected = model.generate("Once", max_tokens=12)
            answer = model.chat("Hello", max_tokens=12)
        assert handle.generate.remote("Once", max_tokens=12).result()["text"] == expected
        pieces = list(handle.options(stream=True).stream.remote("Once", max_tokens=12))
        assert len(pieces) > 1 and "".join(pieces) == expected
        body = httpx.post(url, json={"prompt": "Once", "max_tokens": 12}, timeout=30).json()
        assert body == {"text": str(expected), "finish_reason": "length", "tokens": 12}
        messages = [{"role": "user", "content": "Hello"}]
        lines = httpx.post(url, json={"messages": messages, "max_tokens": 12, "stream": True}, timeout=30).text.split(
            "\n\n"
        )
        assert lines[-2:] == ["data: [DONE]", ""]
        assert "".join(json.loads(line.removeprefix("data: "))["text"] for line in lines[:-2]) == answer
        for wrong in ({}, {"prompt": "x", "messages": []}, {"prompt": "x", "temprature": 1}, {"prompt": 3}):
            refused = httpx.post(url, json=wrong, timeout=30)
            assert refused.status_code == 400 and refused.json()["error"]
    finally:
        serve.shutdown()
