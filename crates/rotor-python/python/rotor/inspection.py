"""What a model's file holds, as one dictionary."""

from __future__ import annotations

import json
from typing import Any

from rotor import _rotor, gguf
from rotor._rotor import FormatError
from rotor.names import BUILT_IN, Place, locate

__all__ = ["inspect"]


def inspect(path: Place = None, *, trits: bool = False, mmap: bool = True) -> dict[str, Any]:
    """Header, hyper-parameters, tensors, tokenizer and memory plan of a model, without loading its weights.

    Args:
        path: a GGUF file, a ``.safetensors`` file, a Hugging Face folder or a name, as :meth:`rotor.Model.load` takes
            them; without one, the small model inside the package.
        trits: whether to count the -1, 0 and +1 of every ternary tensor; this reads all weights.
        mmap: whether to map the file; ``False`` reads it.

    Returns:
        What ``rotor inspect --json`` prints: ``format``, ``config``, ``tensors`` (name, shape, type, nbytes),
        ``tokenizer``, ``chat_template``, ``memory`` (bytes), ``metadata``, ``warnings``; and with ``trits``
        also ``trits``: for each ternary tensor name, type, ``minus``, ``zero``, ``plus`` and the range of its scales.

    Raises:
        OSError: where it cannot be read.
        FormatError: where it is broken, or of a kind that rotor does not read.
    """
    with gguf.open(path, mmap=mmap) as file:
        linears, embedding, head, sketch, per_token, context = file._source.memory()
        weights = linears + embedding + head + sketch
        report = {
            "path": locate(path) or BUILT_IN,
            "format": file.kind,
            "config": file.config,
            "tensors": [tensor._asdict() for tensor in file.tensors],
            "tokenizer": _tokenizer(file),
            "chat_template": _has_template(file),
            "memory": {
                "linears_bytes": linears,
                "embedding_bytes": embedding,
                "head_bytes": head,
                "sketch_bytes": sketch,
                "weights_bytes": weights,
                "context": context,
                "kv_bytes_per_token": per_token,
                "kv_bytes": per_token * context,
                "total_bytes": weights + per_token * context,
            },
            "metadata": file.metadata,
            "warnings": file.warnings,
        }
        if trits:
            report["trits"] = json.loads(_rotor.trit_statistics(file._source))
        return report


def _has_template(file: gguf.File) -> bool:
    """Whether there is a chat template, a broken one included."""
    try:
        return file.chat_template is not None
    except FormatError:
        return True


def _tokenizer(file: gguf.File) -> dict[str, Any] | None:
    tokenizer = file._source.tokenizer()
    if tokenizer is None:
        return None
    if isinstance(tokenizer, str):
        return {"error": tokenizer}
    tokens, bos, eos, adds_bos, ends = tokenizer
    return {"tokens": tokens, "bos": bos, "eos": eos, "adds_bos": adds_bos, "end_of_generation": ends}
