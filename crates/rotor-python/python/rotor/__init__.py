"""Ternary (BitNet b1.58) language models: opened as published, computed exactly, fast on ordinary CPUs.

>>> import rotor
>>> with rotor.Model.load("model.gguf") as model:                   # doctest: +SKIP
...     print(model.generate("Once upon a time", max_tokens=64))

- ``rotor.Model``: load, generate, stream, chat, tokenize, logits, perplexity.
- ``rotor.pull``, ``rotor.models``: models by name, fetched from a hub or already on this machine.
- ``rotor.bitnet``: int8 weights, 2-bit BitNet codes and Rotor bit planes into each other.
- ``rotor.core.RotorCore``: exact products of bit planes with int8 vectors and matrices.
- ``rotor.convert``, ``rotor.inspect``: from any form to any other, and what is in a file.
- ``rotor.gguf``: tensors and metadata of a model's file, as numpy arrays.
- ``rotor.synth``: random layers and whole synthetic models.

Everything computes on one pool of threads per process; :func:`threads` tells and sets its size. The interpreter is free
for other Python threads meanwhile.
"""

from rotor import bitnet, core, gguf, synth
from rotor._rotor import FormatError, __version__, isa, threads
from rotor.conversion import convert
from rotor.hub import LocalModel, known_models, models, pull
from rotor.inspection import inspect
from rotor.model import Completion, Model, Perplexity, Stream, TokenLogprob

__all__ = [
    "Completion",
    "FormatError",
    "LocalModel",
    "Model",
    "Perplexity",
    "Stream",
    "TokenLogprob",
    "__version__",
    "bitnet",
    "convert",
    "core",
    "gguf",
    "inspect",
    "isa",
    "known_models",
    "models",
    "pull",
    "synth",
    "threads",
]
