"""Random ternary layers, and whole synthetic models with the exact shapes of published ones.

For measuring speed and memory, and for tests where no model can be downloaded. The text such a model writes is noise.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rotor import _rotor

__all__ = ["SynthReport", "create_bitnet_layer", "create_model", "presets"]


class SynthReport(NamedTuple):
    """What :func:`create_model` wrote."""

    tensors: int
    """Number of tensors."""
    ternary_weights: int
    """Number of ternary weights."""
    bytes: int
    """Size of the GGUF, or of the folder's ``model.safetensors``."""
    vocabulary: int
    """Rows of the embedding."""


def create_bitnet_layer(m: int, n: int, zeros: float = 0.4, seed: int = 0) -> npt.NDArray[np.int8]:
    """Random weights of one layer.

    Args:
        m: rows (output features).
        n: columns (input features).
        zeros: the share of weights that are 0; the rest are evenly -1 and +1.
        seed: the same seed gives the same weights, in every version.

    Returns:
        int8 ``[m, n]``.
    """
    return _rotor.random_trits(m, n, zeros, seed)


def presets() -> list[str]:
    """The architectures that :func:`create_model` knows."""
    return _rotor.presets()


def create_model(
    preset: str,
    path: str | os.PathLike[str],
    *,
    type: str = "i2_s",
    head: str = "f16",
    seed: int = 0,
    tokenizer: str | os.PathLike[str] | None = None,
) -> SynthReport:
    """Writes a synthetic model, 40 % of its weights 0.

    Args:
        preset: one of :func:`presets`; ``tiny`` has 1.5 MB.
        path: the file to write, or the folder for ``type="hf"``.
        type: ``i2_s`` or ``i2_s_64`` for a GGUF, ``hf`` for a Hugging Face folder.
        head: how the embedding and the head are stored: ``f32``, ``f16``, ``bf16``; in a GGUF also ``q8_0``, ``q6_k``,
            ``q4_k``.
        seed: the numbers depend on nothing else.
        tokenizer: ``tokenizer.json`` or tiktoken ranks to take the vocabulary from, instead of a made-up one.

    Raises:
        ValueError: for an unknown preset, type or head, or a head that does not fit.
        OSError: where the file cannot be written.
    """
    return SynthReport(*_rotor.synthesize(preset, os.fspath(path), type, head, seed, tokenizer))
