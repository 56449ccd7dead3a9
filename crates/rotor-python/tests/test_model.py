"""Models: text, logits, and everything that can go wrong while they generate."""

import asyncio
import gc
import itertools
import json
import math
import os
import pickle
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import rotor
from conftest import HF_TINY


def test_a_model_says_what_it_is(model: rotor.Model, tiny: Path):
    assert model.path == str(tiny)
    assert model.config["hidden_size"] == 256 and model.config["architecture"] == "bitnet"
    assert model.vocab_size == 1024 and model.context == 2048
    assert model.has_chat_template and model.warnings == []
    assert model.eos_token_id in model.end_of_generation
    assert model.weight_bytes > 0
    assert "tiny.gguf" in repr(model)


def test_tokens_lead_back_to_the_text(model: rotor.Model):
    text = "Grüße, 世界! 🦀"
    ids = model.tokenize(text)
    assert model.detokenize(ids) == text
    without = model.tokenize(text, add_bos=False)
    assert ids == ([model.bos_token_id] if ids[0] == model.bos_token_id else []) + without
    assert model.tokenize("", add_bos=False) == []
    assert model.detokenize([]) == ""


def test_generation_is_greedy_and_repeats(model: rotor.Model):
    first = model.generate("Once upon a time", max_tokens=24)
    second = model.generate("Once upon a time", max_tokens=24)
    assert isinstance(first, str) and first == second and first.text == str(first)
    assert len(first.tokens) == 24 and first.finish_reason == "length" and first.logprobs is None
    assert second.cached_tokens > 0 and first.prompt_tokens == second.prompt_tokens
    assert model.generate(model.tokenize("Once upon a time"), max_tokens=24) == first


def test_conversations_that_share_nothing_keep_what_was_computed(tiny: Path):
    with rotor.Model.load(tiny) as model:
        first = model.generate("Once upon a time there was a princess", max_tokens=2)
        model.generate("The fourth chapter is about ternary weights", max_tokens=2)
        again = model.generate("Once upon a time there was a princess", max_tokens=2)
        assert again.cached_tokens == first.prompt_tokens - 1


def test_a_completion_can_be_pickled(model: rotor.Model):
    completion = model.generate("Once", max_tokens=4, logprobs=True)
    copy = pickle.loads(pickle.dumps(completion))
    assert copy == completion and copy.tokens == completion.tokens and copy.logprobs == completion.logprobs


def test_seeds_decide(model: rotor.Model):
    def sample(seed: int) -> str:
        return model.generate("Once", max_tokens=16, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_options_do_what_they_say(model: rotor.Model):
    plain = model.generate("Once", max_tokens=12)
    banned = model.generate("Once", max_tokens=12, logit_bias={plain.tokens[0]: -math.inf})
    assert plain.tokens[0] not in banned.tokens
    cut = str(plain)[3:6]
    stopped = model.generate("Once", max_tokens=12, stop=cut)
    assert stopped.finish_reason == "stop" and cut not in stopped and str(plain).startswith(str(stopped))
    assert model.generate("Once", max_tokens=0) == ""


def test_a_response_format_is_kept(model: rotor.Model):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}}
    schema |= {"required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    text = model.generate("A number: ", response_format=form, max_tokens=200)
    assert text.finish_reason == "stop" and 0 <= json.loads(text)["a"] <= 99
    assert model.generate("Once", response_format={"type": "text"}, max_tokens=5) == model.generate(
        "Once", max_tokens=5
    )
    for wrong in ({}, {"type": "xml"}, {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}):
        with pytest.raises(ValueError, match="response_format"):
            model.generate("Once", response_format=wrong)
    with pytest.raises(TypeError, match="response_format must be a mapping"):
        model.generate("Once", response_format="json")


def test_logprobs_are_those_of_the_logits(model: rotor.Model):
    prompt = model.tokenize("Once upon")
    completion = model.generate(prompt, max_tokens=5, logprobs=3)
    logits = model.logits(prompt + completion.tokens, kv="f16").astype(np.float64)
    for index, entry in enumerate(completion.logprobs):
        row = logits[len(prompt) - 1 + index]
        expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert entry.id == completion.tokens[index] and isinstance(entry.token, str)
        assert entry.logprob == pytest.approx(expected[entry.id], abs=1e-9)
        order = np.argsort(-expected, kind="stable")[:3]
        assert [id for id, _ in entry.top] == order.tolist()
        assert [logprob for _, logprob in entry.top] == pytest.approx(expected[order], abs=1e-9)
    assert [entry.top for entry in model.generate(prompt, max_tokens=2, logprobs=True).logprobs] == [[], []]


def test_chat_takes_the_shapes_the_ecosystem_knows(model: rotor.Model):
    plain = model.chat([{"role": "user", "content": "Hello"}], max_tokens=8)
    assert model.chat("Hello", max_tokens=8) == plain
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    assert model.chat(parts, max_tokens=8) == plain
    assert "".join(model.stream([{"role": "user", "content": "Hello"}], max_tokens=8)) == plain
    assert model.encode_chat("Hello") == model.encode_chat([{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([{"role": "user"}], TypeError),
        (["Hello"], TypeError),
        ([{"role": "user", "content": [{"type": "image"}]}], TypeError),
        ([{"role": 3, "content": "x"}], TypeError),
        ([{"role": "<|system|>", "content": "x"}], ValueError),
    ],
)
def test_messages_of_another_shape_are_refused(model: rotor.Model, messages, error):
    with pytest.raises(error):
        model.chat(messages)


def test_streams_give_what_generate_gives(model: rotor.Model):
    whole = model.generate("Once upon a time", max_tokens=40)
    with model.stream("Once upon a time", max_tokens=40) as stream:
        pieces = list(stream)
    assert "".join(pieces) == whole and len(pieces) > 1
    assert stream.completion == whole and stream.completion.tokens == whole.tokens
    assert list(stream) == []


def test_a_stream_can_be_left(model: rotor.Model):
    for leave in (lambda stream: stream.close(), lambda stream: None):
        stream = model.stream("Once", max_tokens=None, ignore_eos=True)
        next(stream)
        leave(stream)
        del stream
        gc.collect()
    stream = model.stream("Once", max_tokens=None, ignore_eos=True)
    stream.close()
    assert list(stream) == [] and stream.completion is None
    assert model.generate("Once", max_tokens=4)


def test_streams_are_asynchronous_too(model: rotor.Model):
    async def collect(prompt: str) -> str:
        pieces = []
        async for piece in model.stream(prompt, max_tokens=20):
            pieces.append(piece)
        return "".join(pieces)

    async def several() -> list[str]:
        return await asyncio.gather(*(collect(prompt) for prompt in ("Once", "upon", "a", "time")))

    async def cancelled() -> None:
        task = asyncio.create_task(collect_forever())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def collect_forever() -> None:
        async with model.stream("Once", max_tokens=None, ignore_eos=True) as stream:
            async for _ in stream:
                await asyncio.sleep(0)

    assert asyncio.run(several()) == [model.generate(prompt, max_tokens=20) for prompt in ("Once", "upon", "a", "time")]
    asyncio.run(cancelled())
    assert model.generate("Once", max_tokens=4)


def test_callbacks_see_every_piece_and_may_end_it(model: rotor.Model):
    pieces: list[str] = []
    whole = model.generate("Once", max_tokens=20, callback=pieces.append)
    assert "".join(pieces) == whole

    seen: list[str] = []
    ended = model.generate("Once", max_tokens=20, callback=lambda piece: (seen.append(piece), len(seen) < 3)[1])
    assert ended.finish_reason == "cancelled" and str(whole).startswith(str(ended)) and len(seen) == 3


def test_a_callback_that_raises_leaves_the_model_usable(model: rotor.Model):
    class Mine(Exception):
        pass

    def fail(piece: str) -> None:
        raise Mine(piece)

    before = model.generate("Once", max_tokens=8)
    for _ in range(3):
        with pytest.raises(Mine):
            model.generate("Once", max_tokens=8, callback=fail)
    assert model.generate("Once", max_tokens=8) == before


def test_a_callback_may_use_the_model(model: rotor.Model):
    inner: list[str] = []
    model.generate("Once", max_tokens=3, callback=lambda piece: inner.append(model.generate("upon", max_tokens=3)))
    assert inner and set(inner) == {model.generate("upon", max_tokens=3)}


def test_threads_get_what_one_alone_gets(model: rotor.Model):
    prompts = [f"Story number {index}" for index in range(8)]
    alone = [model.generate(prompt, max_tokens=16) for prompt in prompts]
    found: list[str | None] = [None] * len(prompts)

    def work(index: int) -> None:
        found[index] = model.generate(prompts[index], max_tokens=16)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_more_streams_than_share_a_step_can_be_read_in_turn(model: rotor.Model):
    prompts = [f"Story number {index}" for index in range(20)]
    alone = [model.generate(prompt, max_tokens=100, ignore_eos=True) for prompt in prompts]
    texts = [""] * len(prompts)
    streams = [model.stream(prompt, max_tokens=100, ignore_eos=True) for prompt in prompts]
    for pieces in itertools.zip_longest(*streams, fillvalue=""):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    assert texts == alone


def test_the_interpreter_is_free_while_a_model_works(model: rotor.Model):
    ticks, done = 0, threading.Event()

    def work() -> None:
        model.generate("Once", max_tokens=400, ignore_eos=True)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        ticks += 1
        time.sleep(0.001)
    thread.join()
    assert ticks > 10


def test_logits_are_those_of_the_reference():
    """transformers' logits, as the fixtures hold them: within 1e-4 of the largest, the same likeliest token everywhere."""
    for folder in sorted(HF_TINY.iterdir()):
        expected = read_safetensors(folder / "expected.safetensors")
        with rotor.Model.load(folder) as model:
            found = model.logits(expected["input_ids"])
        assert found.dtype == np.float32 and found.shape == expected["logits"].shape
        assert np.abs(found - expected["logits"]).max() <= 1e-4 * np.abs(expected["logits"]).max(), folder.name
        assert (found.argmax(axis=1) == expected["logits"].argmax(axis=1)).all(), folder.name


def test_logits_are_those_of_the_command(model: rotor.Model, tiny: Path, tmp_path: Path):
    """Bit for bit; needs the command, whose path ROTOR_COMMAND holds."""
    command = os.environ.get("ROTOR_COMMAND")
    if not command:
        pytest.skip("ROTOR_COMMAND is not set: logits were not compared with the command's")
    ids = np.random.default_rng(6).integers(0, model.vocab_size, 300)
    output = tmp_path / "logits.safetensors"
    subprocess.run(
        [command, "logits", tiny, "--ids", ",".join(map(str, ids)), "-o", output], check=True, capture_output=True
    )
    expected = read_safetensors(output)["logits"]
    found = model.logits(ids)
    assert found.shape == (300, 1024) and found.tobytes() == expected.tobytes()


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All there is to the format: a length, a JSON header, bytes."""
    import json

    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    dtypes = {"F32": "<f4", "I64": "<i8"}
    return {
        name: np.frombuffer(body[slice(*tensor["data_offsets"])], dtypes[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize("dtype", [np.int64, ">i4", "<u2", np.uint32, list, tuple])
def test_ids_may_be_any_integers(model: rotor.Model, dtype):
    ids = [1, 5, 1000, 7]
    given = dtype(ids) if dtype in (list, tuple) else np.array(ids, dtype)
    assert np.array_equal(model.logits(given), model.logits(ids))
    assert np.array_equal(model.logits(np.array([9, 1, 9, 5, 9, 1000, 9, 7])[1::2]), model.logits(ids))
    misaligned = np.zeros(17, np.uint8)[1:].view(np.uint32)
    misaligned[:] = ids
    assert np.array_equal(model.logits(misaligned), model.logits(ids))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (
            [1, 2, 4000, -1],
            ValueError,
            r"ids: 2 out of range, the first at index \[2\]: 4000, but the vocabulary has 1024",
        ),
        ([1.5], TypeError, "ids: expected integers, found float64"),
        ([[1, 2]], ValueError, "expected one dimension, found 2"),
        ("text", (TypeError, ValueError), "ids"),
    ],
)
def test_ids_of_another_kind_are_refused(model: rotor.Model, ids, error, message: str):
    with pytest.raises(error, match=message):
        model.logits(ids)


def test_no_ids_have_no_logits(model: rotor.Model):
    assert model.logits([]).shape == (0, 1024)
    with pytest.raises(ValueError, match="the prompt is empty"):
        model.generate([])


def test_perplexity_is_that_of_the_logits(model: rotor.Model):
    ids = np.random.default_rng(7).integers(0, model.vocab_size, 200).tolist()
    found = model.perplexity(ids, context=64)
    assert isinstance(found, float) and found.tokens == 3 * 31 and found.standard_error > 0
    bos = model.tokenize("")[:1]
    sums = []
    for start in (0, 64, 128):
        chunk = bos + ids[start + len(bos) : start + 64]
        logits = model.logits(chunk, kv="f16").astype(np.float64)
        normal = (
            logits
            - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            - logits.max(1, keepdims=True)
        )
        sums += [-normal[position, chunk[position + 1]] for position in range(32, 63)]
    assert found == pytest.approx(math.exp(np.mean(sums)), rel=1e-6)
    assert model.perplexity(ids, context=64, chunks=1).tokens == 31
    with pytest.raises(ValueError, match="the text has 200 tokens, but one chunk needs 512"):
        model.perplexity(ids)
    with pytest.raises(ValueError, match="context must be at least 4"):
        model.perplexity(ids, context=3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temprature": 1}, TypeError, r"generate\(\) got an unexpected keyword argument 'temprature'"),
        ({"temperature": -1}, ValueError, "temperature must be between 0 and 100"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number"),
        ({"top_p": 2}, ValueError, "top_p must be between 0 and 1"),
        ({"top_k": -1}, ValueError, "top_k must be between 0"),
        ({"max_tokens": 1.5}, TypeError, "max_tokens must be a whole number"),
        ({"max_tokens": -1}, ValueError, "max_tokens must be between 0"),
        ({"seed": 2**64}, ValueError, "seed must be between 0"),
        ({"stop": ["a", ""]}, ValueError, "empty string"),
        ({"logit_bias": {4000: 1.0}}, ValueError, "logit_bias must be for token ids below 1024"),
        ({"repeat_penalty": 0}, ValueError, "repeat_penalty must be above 0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(model: rotor.Model, options, error, message: str):
    with pytest.raises(error, match=message):
        model.generate("Once", **options)
    assert model.generate("Once", max_tokens=1)


def test_a_prompt_that_does_not_fit_is_refused(tiny: Path):
    with rotor.Model.load(tiny, context=16) as model:
        assert model.context == 16
        with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, but the context holds 16.*context="):
            model.generate(list(range(16)))
        full = model.generate(list(range(10)), max_tokens=None, ignore_eos=True)
        assert full.finish_reason == "context_full" and len(full.tokens) == 6 + 1
    with pytest.raises(ValueError, match="context must be at least 1"):
        rotor.Model.load(tiny, context=0)
    with rotor.Model.load(tiny, kv_memory=1) as model:
        with pytest.raises(ValueError, match=r"may need \d+ bytes for keys and values, but there are \d+.*kv_memory="):
            model.generate("Once")


def test_a_closed_model_says_so(tiny: Path):
    with rotor.Model.load(tiny) as model:
        assert not model.closed
    assert model.closed and "(closed)" in repr(model)
    model.close()
    for call in (
        lambda: model.generate("x"),
        lambda: model.tokenize("x"),
        lambda: model.logits([1]),
        lambda: model.stream("x"),
    ):
        with pytest.raises(ValueError, match="the model is closed"):
            call()


def test_closing_waits_for_nobody(tiny: Path):
    model = rotor.Model.load(tiny)
    stream = model.stream("Once", max_tokens=30, ignore_eos=True)
    model.close()
    assert len("".join(stream)) > 0


def test_a_model_cannot_be_pickled(model: rotor.Model):
    with pytest.raises(TypeError, match="send its path"):
        pickle.dumps(model)


def test_paths_that_are_no_model(tmp_path: Path, tiny: Path):
    with pytest.raises(FileNotFoundError, match="missing.gguf"):
        rotor.Model.load(tmp_path / "missing.gguf")
    text = tmp_path / "text.gguf"
    text.write_text("this is not a model")
    with pytest.raises(rotor.FormatError, match="text.gguf"):
        rotor.Model.load(text)
    assert issubclass(rotor.FormatError, ValueError)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(rotor.FormatError, match="cut short"):
        rotor.Model.load(cut)
    (tmp_path / "empty").mkdir()
    with pytest.raises((OSError, rotor.FormatError)):
        rotor.Model.load(tmp_path / "empty")
    with pytest.raises(TypeError):
        rotor.Model.load(3)
    with pytest.raises(ValueError, match="kv must be 'f16', 'f32' or 'int8'"):
        rotor.Model.load(tiny, kv="f8")
    with pytest.raises(ValueError, match="i2s_layout must be"):
        rotor.Model.load(tiny, i2s_layout="12")


def test_a_model_without_a_tokenizer_computes_but_does_not_talk():
    with rotor.Model.load(HF_TINY / "llama-packed") as model:
        if model._vocabulary[4]:
            pytest.skip("the fixture has a tokenizer now")
        with pytest.raises(RuntimeError, match="has no tokenizer"):
            model.generate("Once")
        completion = model.generate([1, 2, 3], max_tokens=5, logprobs=1)
        assert completion == "" and len(completion.tokens) == 5 and completion.logprobs[0].token == ""
        assert model.bos_token_id is None


def test_embed_gives_a_vector_of_length_one_for_each_text(model: rotor.Model) -> None:
    texts = ["The ship left the harbour.", "He ate an apple."]
    vectors = model.embed(texts)
    assert vectors.shape == (2, model.config["hidden_size"]) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[1:], model.embed(texts[1])), "the same alone"
    assert np.array_equal(vectors, model.embed([model.tokenize(text) for text in texts]))
    assert not np.array_equal(vectors, model.embed(texts, pooling="last"))
    with pytest.raises(ValueError, match="pooling must be 'mean', 'last' or 'cls', not .max."):
        model.embed(texts, pooling="max")  # type: ignore[arg-type]


def test_activations_are_chosen_at_load() -> None:
    with pytest.raises(ValueError, match="activations must be 'auto', 'int8' or 'exact', not .fp4."):
        rotor.Model.load(activations="fp4")  # type: ignore[arg-type]
    with rotor.Model.load() as usual, rotor.Model.load(activations="exact") as exact:
        ids = usual.tokenize("The ship")
        assert not np.array_equal(usual.logits(ids), exact.logits(ids))
