"""Many prompts on many machines, with Ray: a batch actor for Ray Data and a deployment for Ray Serve.

Ray does the rest: placing workers, feeding them, restarting those that die, scaling with the load. It is an extra,
``pip install rotor-bitnet[ray]``. The model must be readable on every machine.

>>> import ray                                                       # doctest: +SKIP
>>> from rotor.ray import generate
>>> prompts = ray.data.read_json("prompts.jsonl")                    # a column "prompt"
>>> generate(prompts, "model.gguf", max_tokens=64).write_json("texts")
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np

try:
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
except ImportError as error:
    raise ImportError("rotor.ray needs Ray: pip install 'rotor-bitnet[ray]'") from error

from rotor.model import Completion, Model
from rotor.names import Place

__all__ = ["Generator", "Service", "deployment", "generate"]


class Generator:
    """A batch actor: prompts in, texts out, row by row in the same order.

    Rows that fail do not stop the others. What may pass (no memory, say) is tried again; what cannot (a prompt that is
    too long) is not. Either way the row gets no text and the reason in the error column.
    """

    def __init__(
        self,
        model: Place,
        *,
        threads: int = 1,
        prompt: str = "prompt",
        text: str = "text",
        error: str = "error",
        attempts: int = 3,
        load: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = Model.load(model, threads=threads, **(load or {}))
        self._prompt, self._text, self._error = prompt, text, error
        self._attempts = attempts
        self._options = dict(options or {})

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Adds the text and error columns to a batch."""
        results = [self._row(prompt) for prompt in batch[self._prompt]]
        texts, errors = np.empty(len(results), dtype=object), np.empty(len(results), dtype=object)
        texts[:] = [text for text, _ in results]
        errors[:] = [error for _, error in results]
        return {**batch, self._text: texts, self._error: errors}

    def _row(self, prompt: Any) -> tuple[str | None, str | None]:
        reason = None
        for _ in range(self._attempts):
            try:
                return str(self.generate(prompt)), None
            except (TypeError, ValueError) as error:
                return None, f"{type(error).__name__}: {error}"
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        return None, reason

    def generate(self, prompt: Any) -> Completion:
        """One row: completes a text, or answers a list of messages."""
        if isinstance(prompt, str):
            return self._model.generate(prompt, **self._options)
        if isinstance(prompt, (list, tuple, np.ndarray)) and len(prompt) > 0 and isinstance(prompt[0], Mapping):
            return self._model.chat(list(prompt), **self._options)
        raise TypeError(f"a prompt must be a text or a list of messages, not {type(prompt).__name__}")


def generate(
    dataset: ray.data.Dataset,
    model: Place = None,
    *,
    threads: int = 1,
    workers: int | tuple[int, int] = (1, 64),
    batch_size: int = 8,
    prompt: str = "prompt",
    text: str = "text",
    error: str = "error",
    attempts: int = 3,
    load: Mapping[str, Any] | None = None,
    worker: type[Generator] = Generator,
    **options: Any,
) -> ray.data.Dataset:
    """Adds a column of generated texts, and one of errors (null where there was none), to a dataset of prompts.

    The order of the rows is kept. Ray starts a worker that dies again, and its batch with it, so that no row is lost.

    Args:
        dataset: rows with a prompt: a text to be completed, or a list of messages to be answered.
        model: the model's path or name, on every machine.
        threads: cores that one worker takes, of Ray's count and in fact.
        workers: how many workers, or the least and the most.
        batch_size: rows that a worker takes at once, and that are done again where it dies.
        prompt: the column of prompts.
        text: the column of texts to add.
        error: the column of errors to add.
        attempts: how often a row is tried whose failure may pass.
        load: more keywords for :meth:`rotor.Model.load`.
        worker: the actor's class, for those who need to change what a row is.
        options: keywords of :meth:`rotor.Model.generate`.
    """
    least, most = (workers, workers) if isinstance(workers, int) else workers
    dataset.context.execution_options.preserve_order = True
    return dataset.map_batches(
        worker,
        fn_constructor_args=(model,),
        fn_constructor_kwargs={
            "threads": threads,
            "prompt": prompt,
            "text": text,
            "error": error,
            "attempts": attempts,
            "load": load,
            "options": options,
        },
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        batch_size=batch_size,
        batch_format="numpy",
        num_cpus=threads,
    )


class Service:
    """The deployment behind :func:`deployment`.

    Over HTTP it takes a JSON object with ``prompt`` (a text) or ``messages``, generation's keywords, and ``stream``.
    The answer is ``{"text": ..., "finish_reason": ..., "tokens": ...}``; streamed, it is server-sent events
    ``{"text": ...}`` and at the end ``[DONE]``. Other deployments call :meth:`generate` and, with
    ``handle.options(stream=True)``, :meth:`stream`.
    """

    def __init__(self, model: Place, threads: int, load: Mapping[str, Any]) -> None:
        self._model = Model.load(model, threads=threads, **load)

    async def stream(self, prompt: Any, **options: Any) -> AsyncIterator[str]:
        """Pieces of text as they come. A caller that leaves ends the generation."""
        async with self._model.stream(prompt, **options) as pieces:
            async for piece in pieces:
                yield piece

    async def generate(self, prompt: Any, **options: Any) -> dict[str, Any]:
        """The whole text."""
        async with self._model.stream(prompt, **options) as pieces:
            text = "".join([piece async for piece in pieces])
            completion = pieces.completion
        if completion is None:
            raise RuntimeError("the generation was broken off")
        return {"text": text, "finish_reason": completion.finish_reason, "tokens": len(completion.tokens)}

    async def __call__(self, request: Request) -> Response:
        """Answers an HTTP request."""
        try:
            options = await request.json()
            if not isinstance(options, dict) or ("prompt" in options) == ("messages" in options):
                raise ValueError("give a JSON object with either 'prompt' or 'messages'")
            prompt = options.pop("prompt") if "prompt" in options else options.pop("messages")
            if options.pop("stream", False):
                pieces = self.stream(prompt, **options)
                # The first piece tells whether the request is in order, while the status can still say so.
                first = await anext(pieces, None)
                return StreamingResponse(_events(first, pieces), media_type="text/event-stream")
            return JSONResponse(await self.generate(prompt, **options))
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)


async def _events(first: str | None, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    if first is not None:
        yield f"data: {json.dumps({'text': first})}\n\n"
    async for piece in pieces:
        yield f"data: {json.dumps({'text': piece})}\n\n"
    yield "data: [DONE]\n\n"


def deployment(
    model: Place = None,
    *,
    threads: int = 1,
    replicas: tuple[int, int] = (1, 8),
    ongoing: int = 2,
    autoscaling: Mapping[str, Any] | None = None,
    load: Mapping[str, Any] | None = None,
    service: type[Service] = Service,
    **options: Any,
) -> serve.Application:
    """A Ray Serve application that generates, with streaming and autoscaling. ``serve.run(deployment("model.gguf"))``.

    A request under way in a replica that dies fails at its caller; Serve starts another replica.

    Args:
        model: the model's path or name, on every machine.
        threads: cores that one replica takes, of Ray's count and in fact.
        replicas: the least and the most replicas; Serve chooses by the load.
        ongoing: requests at once that a replica should have.
        autoscaling: more of Serve's ``autoscaling_config``: ``upscale_delay_s``, ``downscale_delay_s``, ...
        load: more keywords for :meth:`rotor.Model.load`.
        service: the replica's class, for those who need to change what a request is.
        options: more options of ``serve.deployment``.
    """
    deploy = serve.deployment(
        ray_actor_options={"num_cpus": threads},
        autoscaling_config={
            "min_replicas": replicas[0],
            "max_replicas": replicas[1],
            "target_ongoing_requests": ongoing,
            **(autoscaling or {}),
        },
        **{"name": "rotor", **options},
    )
    application: serve.Application = deploy(service).bind(model, threads, dict(load or {}))
    return application
