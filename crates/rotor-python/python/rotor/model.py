"""A loaded model."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from rotor import _rotor
from rotor.names import BUILT_IN, Place, locate

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Completion", "GenerateOptions", "Model", "Perplexity", "Stream", "TokenLogprob"]

Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
Messages = str | Sequence[Mapping[str, Any]]
Kv = Literal["f16", "f32", "int8"]


class GenerateOptions(TypedDict, total=False):
    """The keywords of :meth:`Model.generate`, :meth:`Model.stream` and :meth:`Model.chat`.

    The filters' defaults are llama.cpp's; at temperature 0 they change nothing.
    """

    max_tokens: int | None
    """Most tokens to generate (128); ``None`` goes on to the end of the context."""
    temperature: float
    """Divides the logits; 0 (the default) takes the likeliest token."""
    top_k: int
    """Keeps the so many likeliest tokens (40); 0 keeps all."""
    top_p: float
    """Keeps the fewest likeliest tokens that together have this probability (0.95); 1 keeps all."""
    min_p: float
    """Keeps tokens at least this likely relative to the likeliest (0.05); 0 keeps all."""
    repeat_penalty: float
    """Divides positive and multiplies negative logits of tokens that occurred before (1.0)."""
    repeat_last_n: int | None
    """How many of the last tokens the three penalties look at (64); ``None`` for all."""
    presence_penalty: float
    """Subtracted once from the logit of every token that occurred before (0.0)."""
    frequency_penalty: float
    """Subtracted for every time a token occurred before (0.0)."""
    logit_bias: Mapping[int, float]
    """Added to the logits of single tokens; ``-inf`` forbids one."""
    seed: int | None
    """Seed of the random numbers; ``None`` takes another one each time."""
    stop: str | Sequence[str]
    """Strings that end the text; they are not part of it."""
    ignore_eos: bool
    """Goes on past end-of-turn tokens."""
    logprobs: int | bool | None
    """Reports the log-probability of each token and of the so many likeliest."""
    response_format: Mapping[str, Any] | None
    """What the text must be, as OpenAI's clients write it: ``{"type": "json_object"}``, or ``{"type": "json_schema",
    "json_schema": {"schema": {...}}}``."""


_DEFAULTS: dict[str, Any] = {
    "max_tokens": 128,
    "temperature": 0.0,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "seed": None,
    "stop": (),
    "ignore_eos": False,
    "logprobs": None,
    "response_format": None,
}


# What a completion takes over from what the engine returns.
_FIELDS = (
    "tokens",
    "finish_reason",
    "prompt_tokens",
    "cached_tokens",
    "draft_tokens",
    "accepted_tokens",
    "prefill_seconds",
    "decode_seconds",
)


class TokenLogprob(NamedTuple):
    """A generated token and how likely it was, before penalties and filters."""

    id: int
    token: str
    """As the vocabulary writes it."""
    logprob: float
    """Natural logarithm of the probability."""
    top: list[tuple[int, float]]
    """The likeliest tokens: id and log-probability, the likeliest first."""


class Completion(str):
    """Generated text: a ``str`` that knows how it came about."""

    tokens: list[int]
    """The generated ids, an end-of-turn token included."""
    finish_reason: str
    """``stop``, ``length`` (``max_tokens``), ``context_full`` or ``cancelled`` (by the callback)."""
    prompt_tokens: int
    """Tokens of the prompt."""
    cached_tokens: int
    """How many of them were known from an earlier call."""
    draft_tokens: int
    """Tokens that were guessed and computed ahead."""
    accepted_tokens: int
    """How many of them were chosen then."""
    prefill_seconds: float
    """Time for the rest of the prompt."""
    decode_seconds: float
    """Time for the generated tokens after the first, those included that were ahead of a callback that broke off."""
    logprobs: list[TokenLogprob] | None
    """One for each of ``tokens``, where they were asked for."""

    @property
    def text(self) -> str:
        """The text alone."""
        return str.__str__(self)


class Perplexity(float):
    """``exp`` of the mean negative log-likelihood: a ``float`` that knows its error."""

    standard_error: float
    """Standard error of the value."""
    tokens: int
    """Tokens scored."""


class Stream(Iterator[str], AsyncIterator[str]):
    """Text as it comes: iterate with ``for`` or ``async for``.

    Generation runs ahead of what is taken, and stands aside while nobody takes its pieces. Leaving early is fine:
    :meth:`close`, the end of a ``with`` block or the last reference breaks off.
    """

    def __init__(self, inner: _rotor.Stream, finish: Callable[[_rotor.Generated], Completion]) -> None:
        self._inner = inner
        self._finish = finish
        self.completion: Completion | None = None
        """The whole text and how it came about, once the stream has ended by itself."""

    def _take(self) -> str | None:
        event = self._inner.next()
        if event is None or isinstance(event, str):
            return event
        self.completion = self._finish(event)
        return None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        piece = self._take()
        if piece is None:
            raise StopIteration
        return piece

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> str:
        try:
            piece = await asyncio.to_thread(self._take)
        except asyncio.CancelledError:
            # Not waited for: whoever cancels wants to go on.
            asyncio.get_running_loop().run_in_executor(None, self.close)
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """Breaks off. The iteration ends."""
        self._inner.close()

    async def aclose(self) -> None:
        """Breaks off, for asynchronous code."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Model:
    """A loaded model. Make one with :meth:`load`; use it as a context manager, or :meth:`close` it.

    Any number of threads and asyncio tasks may use it at once: texts that are generated at the same time share steps,
    and each is the same bytes as if it were alone. What a prompt has in common with an earlier one is not computed
    again. A forked child cannot use its parent's model (``RuntimeError``); it can load its own.

    Every method raises ``ValueError`` for a closed model, for arguments out of range and for prompts that do not fit
    the context, ``RuntimeError`` where the model has no tokenizer or chat template but needs one, ``MemoryError``, and
    ``FloatingPointError`` where a broken model computes no numbers.
    """

    def __init__(self, inner: _rotor.Model, path: str | None) -> None:
        self._inner = inner
        self.path = path
        """Where the model was loaded from; ``None`` for the one inside the package."""
        self.config: dict[str, Any] = inner.config()
        """The hyper-parameters, under transformers' names."""
        vocabulary = inner.vocabulary
        self._vocabulary = (None, None, False, [], 0) if vocabulary is None else vocabulary

    @classmethod
    def load(
        cls,
        path: Place = None,
        *,
        threads: int | None = None,
        context: int | None = None,
        kv: Kv = "f16",
        kv_memory: int | None = None,
        speculate: Literal["lookup", "off"] = "lookup",
        i2s_layout: Literal["128", "64", "1x4", "seq"] | None = None,
        hidden_act: Literal["relu2", "silu"] | None = None,
        kernel_config: str | os.PathLike[str] | None = None,
        mmap: bool = True,
        activations: Literal["auto", "int8", "exact"] = "auto",
    ) -> Model:
        """Opens a model and packs its weights for this machine's kernels.

        Args:
            path: a GGUF file, a ``.safetensors`` file or a Hugging Face folder; a name, ``organisation/name``, of a
                model that the hub's cache on this machine has; without one, or as ``rotor-tiny``, the small model
                inside the package.
            threads: the size of the process's pool (else ``ROTOR_THREADS``, else one per core). It can change only
                while no model is open.
            context: tokens that a text and its continuation may have together; by default the model's own, at most
                4096.
            kv: how keys and values are stored: ``f16``, ``f32``, or ``int8`` with a scale per head and position.
            kv_memory: bytes for the keys and values of all texts, and of beginnings that are kept for later prompts; by
                default half of the memory that is free. They are taken as they are used.
            speculate: whether next tokens are guessed from what was said before (``lookup``) and checked in one step,
                where that is faster, or not (``off``). The text is the same either way.
            i2s_layout: which I2_S layout, where the file is misjudged.
            hidden_act: the gate's activation function, where the file is silent or wrong about it.
            kernel_config: the ``kernel_config.ini`` of the build that wrote TL1 or TL2 weights.
            mmap: whether to map the file; ``False`` reads it, for files that may change meanwhile.
            activations: how finely the inputs of ternary linears are kept: ``int8`` as BitNets were trained, ``exact``
                for models of which the weights alone are ternary, ``auto`` as the model was trained.

        Raises:
            OSError: where it cannot be read.
            FormatError: where it is broken, or of a kind that rotor does not read.
        """
        found = locate(path)
        source = _rotor.Source.open(found, i2s_layout, hidden_act, kernel_config, mmap, activations)
        try:
            return cls(_rotor.Model.load(source, threads, context, kv, kv_memory, speculate), found)
        finally:
            source.close()

    # What it is

    @property
    def name(self) -> str | None:
        """What the model calls itself."""
        name: str | None = self.config["name"]
        return name

    @property
    def context(self) -> int:
        """Tokens that a text and its continuation may have together."""
        return self._inner.context

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, the width of the logits."""
        vocab_size: int = self.config["vocab_size"]
        return vocab_size

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text."""
        return self._vocabulary[0]

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        return self._vocabulary[1]

    @property
    def end_of_generation(self) -> list[int]:
        """The tokens after which generation ends."""
        return list(self._vocabulary[3])

    @property
    def has_chat_template(self) -> bool:
        """Whether :meth:`chat` works."""
        return self._inner.has_chat_template

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in memory."""
        return self._inner.weight_bytes

    @property
    def warnings(self) -> list[str]:
        """What is odd about the file without being wrong."""
        return self._inner.warnings

    # Text and tokens

    def tokenize(self, text: str, *, add_bos: bool = True, special: bool = False) -> list[int]:
        """The ids of a text.

        Args:
            text: any text; lone surrogates raise ``UnicodeEncodeError``.
            add_bos: puts the beginning-of-sequence token in front, if the model wants it.
            special: whether control tokens written in the text count as such; else they are ordinary characters.
        """
        return self._inner.tokenize(text, add_bos, special)

    def detokenize(self, ids: Ids) -> str:
        """The text of ids. Control tokens print nothing; bytes that are no UTF-8 come out as U+FFFD."""
        return self._inner.detokenize(self._ids(ids))

    def encode_chat(self, messages: Messages) -> list[int]:
        """The ids of a conversation that the model is to continue, by its chat template; see :meth:`chat`."""
        return self._inner.encode_chat(_pairs(messages))

    # Generating

    def generate(
        self,
        prompt: str | Ids,
        *,
        callback: Callable[[str], object] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """Continues a prompt.

        Args:
            prompt: text to be completed (control tokens in it are ordinary characters), or ids, taken as they are.
            callback: called with each piece of text as it comes. ``False`` from it ends the generation; what it raises
                ends it too, and comes out here.
            options: see :class:`GenerateOptions`.

        Returns:
            The text that follows the prompt, a ``str`` with more to tell; see :class:`Completion`.
        """
        return self._generate(self._prompt(prompt), callback, _options(options, "generate"))

    def stream(self, prompt: str | Ids | Sequence[Mapping[str, Any]], **options: Unpack[GenerateOptions]) -> Stream:
        """Continues a prompt, or answers a list of messages as :meth:`chat` does, piece by piece.

        >>> for piece in model.stream("Once upon a time"):               # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        """
        checked = _options(options, "stream")
        if _is_messages(prompt):
            ids = self._chat_ids(prompt, checked)  # type: ignore[arg-type]
        else:
            ids = self._prompt(prompt)  # type: ignore[arg-type]
        return Stream(self._inner.stream(ids, checked), lambda generated: self._completion(generated, checked))

    def chat(
        self,
        messages: Messages,
        *,
        callback: Callable[[str], object] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """Answers a conversation.

        Args:
            messages: ``[{"role": "user", "content": "..."}]`` as in transformers and OpenAI's API (contents may be
                lists of text parts), or one user's message as a string. Control tokens that people wrote are ordinary
                characters.
            callback: as in :meth:`generate`.
            options: see :class:`GenerateOptions`.

        Returns:
            The assistant's next message.
        """
        checked = _options(options, "chat")
        return self._generate(self._chat_ids(messages, checked), callback, checked)

    # Numbers

    def logits(self, ids: Ids, *, kv: Kv = "f32") -> npt.NDArray[np.float32]:
        """The logits after every token of ``ids``, to which nothing is added.

        Args:
            ids: token ids, ``[tokens]``.
            kv: how keys and values are stored.

        Returns:
            float32 ``[tokens, vocab]``: the bits that ``rotor logits`` writes.
        """
        return self._inner.logits(self._ids(ids), kv)

    def embed(
        self, texts: str | Sequence[str | Ids], *, pooling: Literal["mean", "last", "cls"] | None = None
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts: the hidden states after the final norm, pooled and divided by their length.

        Texts share steps and nothing is padded; a text's vector is the same alone and among others. The cosine of two
        texts is the dot product of their vectors. Put in front of queries what the model's card says, for instance
        ``"query: "``.

        Args:
            texts: one text, or several, each as a string or as ids.
            pooling: the mean of the tokens' states, the last one or the first one; by default as the file says, the
                mean where it says nothing.

        Returns:
            float32 ``[texts, hidden]``: the bits that ``rotor embed`` writes.
        """
        many = [texts] if isinstance(texts, str) else list(texts)
        return self._inner.embed([self._prompt(text).tolist() for text in many], pooling)

    def perplexity(
        self, text: str | Ids, *, context: int = 512, chunks: int | None = None, kv: Kv = "f16"
    ) -> Perplexity:
        """How well the model predicts a text, by llama.cpp's protocol: the second half of each chunk is scored.

        Args:
            text: a text (or ids) of at least one chunk.
            context: tokens of a chunk.
            chunks: stop after so many.
            kv: how keys and values are stored.
        """
        ids = self._prompt(text)
        if context < 4:
            raise ValueError(f"context must be at least 4 tokens, not {context}")
        if chunks is not None and chunks < 1:
            raise ValueError(f"chunks must be at least 1, not {chunks}")
        value, standard_error, tokens = self._inner.perplexity(ids, context, chunks, kv)
        perplexity = Perplexity(value)
        perplexity.standard_error, perplexity.tokens = standard_error, tokens
        return perplexity

    # Its end

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._inner.closed

    def close(self) -> None:
        """Gives the memory back, once calls under way in other threads have ended."""
        self._inner.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<rotor.Model {self.path or BUILT_IN!r}{' (closed)' if self.closed else ''}>"

    def __reduce__(self) -> Any:
        raise TypeError("a model cannot be pickled: send its path, and load it where it is needed")

    # Parts of the above

    def _generate(
        self, ids: npt.NDArray[np.uint32], callback: Callable[[str], object] | None, options: dict[str, Any]
    ) -> Completion:
        return self._completion(self._inner.generate(ids, options, callback), options)

    def _completion(self, generated: _rotor.Generated, options: dict[str, Any]) -> Completion:
        completion = Completion(generated.text)
        for field in _FIELDS:
            setattr(completion, field, getattr(generated, field))
        completion.logprobs = None
        if options["logprobs"] is not None:
            completion.logprobs = [
                TokenLogprob(id, self._token_text(id), logprob, top) for id, logprob, top in generated.logprobs
            ]
        return completion

    def _token_text(self, id: int) -> str:
        if self._vocabulary[4] == 0:
            return ""
        return self._inner.token_text(id) or ""

    def _prompt(self, prompt: str | Ids) -> npt.NDArray[np.uint32]:
        return self._ids(self.tokenize(prompt) if isinstance(prompt, str) else prompt)

    def _chat_ids(self, messages: Messages, options: dict[str, Any]) -> npt.NDArray[np.uint32]:
        options["trim_start"] = self._inner.trims_answer
        return self._ids(self.encode_chat(messages))

    def _ids(self, ids: Ids) -> npt.NDArray[np.uint32]:
        """Ids as the compiled part wants them, whatever integers they came as."""
        array = np.asarray(ids)
        if array.ndim != 1:
            raise ValueError(f"ids: expected one dimension, found {array.ndim}")
        if array.size == 0:
            return np.empty(0, dtype=np.uint32)
        if array.dtype.kind not in "iu":
            raise TypeError(f"ids: expected integers, found {array.dtype}")
        outside = (array < 0) | (array >= self.vocab_size)
        if outside.any():
            first = int(outside.argmax())
            raise ValueError(
                f"ids: {int(outside.sum())} out of range, the first at index [{first}]: {int(array[first])}, "
                f"but the vocabulary has {self.vocab_size} tokens"
            )
        return np.require(array, dtype=np.uint32, requirements=["C", "A"])


def _is_messages(prompt: object) -> bool:
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str)
        and len(prompt) > 0
        and isinstance(prompt[0], Mapping)
    )


def _pairs(messages: Messages) -> list[tuple[str, str]]:
    """Messages as roles and contents, in one of the shapes that the ecosystem knows."""
    if isinstance(messages, str):
        return [("user", messages)]
    pairs = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise TypeError(f"messages[{index}] must be a mapping with 'role' and 'content', not {message!r:.80}")
        role, content = message["role"], message["content"]
        if not isinstance(content, str):
            content = "".join(_text_part(index, part) for part in content or ())
        if not isinstance(role, str):
            raise TypeError(f"messages[{index}]: the role must be a string, not {role!r:.80}")
        pairs.append((role, content))
    return pairs


def _text_part(index: int, part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if isinstance(text, str):
        return text
    raise TypeError(f"messages[{index}]: a content must be a string or a list of text parts, not {part!r:.80}")


def _options(given: Mapping[str, Any], caller: str) -> dict[str, Any]:
    """Complete and checked options; what depends on the model is checked later."""
    for key in given:
        if key not in _DEFAULTS:
            raise TypeError(f"{caller}() got an unexpected keyword argument {key!r}")
    options = {**_DEFAULTS, **given, "trim_start": False}
    for key in ("max_tokens", "repeat_last_n", "seed"):
        options[key] = None if options[key] is None else _count(key, options[key])
    options["top_k"] = _count("top_k", options["top_k"])
    for key in ("temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"):
        if not isinstance(options[key], (int, float, np.floating, np.integer)) or math.isnan(options[key]):
            raise TypeError(f"{key} must be a number, not {options[key]!r}")
    if isinstance(options["stop"], str):
        options["stop"] = [options["stop"]]
    options["stop"] = list(options["stop"] or ())
    if "" in options["stop"]:
        raise ValueError("stop must not hold an empty string")
    options["logit_bias"] = [(_count("logit_bias", id), bias) for id, bias in dict(options["logit_bias"] or {}).items()]
    options["ignore_eos"] = bool(options["ignore_eos"])
    if isinstance(options["logprobs"], bool):
        options["logprobs"] = 0 if options["logprobs"] else None
    elif options["logprobs"] is not None:
        options["logprobs"] = _count("logprobs", options["logprobs"])
    if options["response_format"] is not None:
        if not isinstance(options["response_format"], Mapping):
            raise TypeError(f"response_format must be a mapping with a 'type', not {options['response_format']!r:.80}")
        options["response_format"] = json.dumps(options["response_format"])
    return options


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} must be between 0 and 2**64 - 1, not {value}")
    return int(value)
