"""Any form of a ternary model to any form that can hold it."""

from __future__ import annotations

import json
import os
from typing import Any

from rotor import _rotor, gguf
from rotor.names import Place

__all__ = ["convert"]


def convert(
    source: Place,
    output: str | os.PathLike[str],
    type: str,
    *,
    head: str | None = None,
    verify: bool = False,
    lossy_tokenizer: bool = False,
) -> dict[str, Any]:
    """Converts a model. Nothing is rounded that was not asked for, and what the target cannot hold is refused by name.

    Args:
        source: a GGUF file, a ``.safetensors`` file, a Hugging Face folder or a name, as :meth:`rotor.Model.load`
            takes them.
        output: the file to write, or the folder for ``type="hf"``. It appears under its name only when it is whole.
        type: the form of the ternary weights: ``i2_s``, ``i2_s_64``, ``tq1_0``, ``tq2_0``, ``q1_0``, ``q2_0``,
            ``bitnet`` (2-bit codes), ``rotor`` (bit planes), ``hf``.
        head: how the embedding and the head are stored: ``f32``, ``f16``, ``bf16``, ``q8_0``, ``q6_k``, ``q4_k``;
            without loss, as in the source where possible, unless given.
        verify: reads the output again and compares every trit, scale and number before it gets its name.
        lossy_tokenizer: leaves out, with a note, what the target cannot hold of the tokenizer, such as a normalizer in
            a GGUF; otherwise that is an error, because texts would become other token ids.

    Returns:
        What was done: ``ternary`` tensors with their scales and how far those were rounded, ``recoded`` dense tensors,
        ``files`` with size and SHA-256, ``verified``, ``notes``.

    Raises:
        ValueError: for an unknown type or head.
        FormatError: for what the target cannot hold, or a source that is broken.
        OSError: where the disk refuses.
    """
    with gguf.open(source) as file:
        text = _rotor.convert(file._source, os.fspath(output), type, head, verify, lossy_tokenizer)
    report: dict[str, Any] = json.loads(text)
    return report
