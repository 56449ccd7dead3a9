"""The tensors and the metadata of a model's file as numpy arrays, without loading the model.

GGUF files (the first part of a split one), ``.safetensors`` files and Hugging Face folders open alike.

>>> from rotor import gguf
>>> with gguf.open("model.gguf") as file:                            # doctest: +SKIP
...     bit0, bit1, scale = file.load_tensor("blk.0.attn_q.weight")

Rows come in the order of the file. A GGUF of the llama family stores the rows of ``attn_q`` and ``attn_k`` interleaved
inside each head; every other tensor has the rows of the graph.
"""

from __future__ import annotations

import json
import os
from types import TracebackType
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from rotor import _rotor, bitnet
from rotor.core import RotorCore
from rotor.names import Place, locate

__all__ = ["Codes", "File", "Floats", "Planes", "TensorInfo", "Trits", "load_layer", "load_tensor", "open"]

Form = Literal["planes", "codes", "int8", "float32"]
Scale = float | npt.NDArray[np.float32]
"""What weights are multiplied by: a float, float32 ``[rows]``, or ``[rows, groups]`` of ``cols / groups`` columns."""


class TensorInfo(NamedTuple):
    """A tensor as it lies in its file."""

    name: str
    shape: tuple[int, ...]
    """Row-major: the last dimension varies fastest."""
    type: str
    """How it is stored: ``i2_s``, ``f16``, ..."""
    nbytes: int


class Planes(NamedTuple):
    """A ternary tensor as bit planes."""

    bit0: npt.NDArray[np.uint8]
    bit1: npt.NDArray[np.uint8]
    scale: Scale


class Codes(NamedTuple):
    """A ternary tensor as 2-bit codes."""

    codes: npt.NDArray[np.uint8]
    scale: Scale


class Trits(NamedTuple):
    """A ternary tensor as int8 weights -1, 0 and +1."""

    values: npt.NDArray[np.int8]
    scale: Scale


class Floats(NamedTuple):
    """A tensor as float32, multiplied by its scale already."""

    values: npt.NDArray[np.float32]
    scale: Scale


Tensor = Planes | Codes | Trits | Floats


def open(
    path: Place = None,
    *,
    i2s_layout: Literal["128", "64", "1x4", "seq"] | None = None,
    hidden_act: Literal["relu2", "silu"] | None = None,
    kernel_config: str | os.PathLike[str] | None = None,
    mmap: bool = True,
) -> File:
    """Opens a model's file or folder and checks everything but the weights.

    Args:
        path: a GGUF file, a ``.safetensors`` file, a Hugging Face folder or a name, as :meth:`rotor.Model.load` takes
            them; without one, the small model inside the package.
        i2s_layout: which I2_S layout, where the file is misjudged.
        hidden_act: the gate's activation function, where the file is silent or wrong about it.
        kernel_config: the ``kernel_config.ini`` of the build that wrote TL1 or TL2 weights.
        mmap: whether to map the file; ``False`` reads it, for files that may change meanwhile.

    Raises:
        OSError: where it cannot be read.
        FormatError: where it is broken, or of a kind that rotor does not read.
    """
    return File(_rotor.Source.open(locate(path), i2s_layout, hidden_act, kernel_config, mmap))


class File:
    """An opened model file. Use it as a context manager, or :meth:`close` it."""

    def __init__(self, source: _rotor.Source) -> None:
        self._source = source

    @property
    def kind(self) -> str:
        """``GGUF`` or ``Hugging Face``."""
        return self._source.kind

    @property
    def warnings(self) -> list[str]:
        """What is odd about the file without being wrong."""
        return self._source.warnings

    @property
    def config(self) -> dict[str, Any]:
        """The hyper-parameters, under transformers' names."""
        return self._source.config()

    @property
    def metadata(self) -> dict[str, Any]:
        """A GGUF's key-value pairs, or ``config.json``. The vocabulary is among them: read it once and keep it."""
        metadata = self._source.metadata()
        return json.loads(metadata) if isinstance(metadata, str) else metadata

    @property
    def chat_template(self) -> str | None:
        """The chat template, in Jinja; one that is not UTF-8 raises ``FormatError``."""
        return self._source.chat_template

    @property
    def tensors(self) -> list[TensorInfo]:
        """Every tensor, in the order of the file."""
        return [TensorInfo(name, tuple(shape), type, nbytes) for name, shape, type, nbytes in self._source.tensors()]

    @overload
    def load_tensor(self, name: str, form: Literal["planes"] = "planes") -> Planes: ...
    @overload
    def load_tensor(self, name: str, form: Literal["codes"]) -> Codes: ...
    @overload
    def load_tensor(self, name: str, form: Literal["int8"]) -> Trits: ...
    @overload
    def load_tensor(self, name: str, form: Literal["float32"]) -> Floats: ...
    @overload
    def load_tensor(self, name: str, form: Form) -> Tensor: ...
    def load_tensor(self, name: str, form: Form = "planes") -> Tensor:
        """One tensor as numpy arrays.

        Args:
            name: as in the file, ``blk.0.attn_q.weight``.
            form: ``planes``, ``codes`` or ``int8`` for a ternary tensor, ``float32`` for any.

        Returns:
            ``Planes(bit0, bit1, scale)``, ``Codes(codes, scale)``, ``Trits(values, scale)`` or
            ``Floats(values, scale)``.

        Raises:
            KeyError: where there is no such tensor.
            ValueError: where the tensor has no such form.
        """
        if form not in ("planes", "codes", "int8", "float32"):
            raise ValueError(f"form must be 'planes', 'codes', 'int8' or 'float32', not {form!r}")
        values, scale, type = self._source.load(name)
        if scale is None:
            if form != "float32":
                raise ValueError(f"tensor {name!r} is not ternary but {type}: it has form='float32' only")
            return Floats(values, 1.0)
        if form == "int8":
            return Trits(values, scale)
        if form == "codes":
            return Codes(bitnet.encode_bitnet_array(values), scale)
        if form == "planes":
            return Planes(*RotorCore.encode(values), scale)
        return Floats(values * _columns(scale, values.shape[1]), scale)

    @overload
    def load_layer(self, layer: int, form: Literal["planes"] = "planes") -> dict[str, Planes]: ...
    @overload
    def load_layer(self, layer: int, form: Literal["codes"]) -> dict[str, Codes]: ...
    @overload
    def load_layer(self, layer: int, form: Literal["int8"]) -> dict[str, Trits]: ...
    @overload
    def load_layer(self, layer: int, form: Literal["float32"]) -> dict[str, Floats]: ...
    @overload
    def load_layer(self, layer: int, form: Form) -> dict[str, Tensor]: ...
    def load_layer(self, layer: int, form: Form = "planes") -> dict[str, Any]:
        """The seven linears of a layer, counted from 0, under GGUF's names: ``attn_q``, ``attn_k``, ``attn_v``,
        ``attn_output``, ``ffn_gate``, ``ffn_up``, ``ffn_down``.

        Raises:
            IndexError: where there is no such layer.
        """
        return {part: self.load_tensor(name, form) for part, name in self._source.layer(layer)}

    def close(self) -> None:
        """Lets the file go. Arrays that were loaded stay."""
        self._source.close()

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _columns(scale: Scale, cols: int) -> npt.NDArray[np.float32]:
    """A scale as what a ``[rows, cols]`` matrix is multiplied by."""
    array = np.asarray(scale, dtype=np.float32)
    if array.ndim == 2:
        return np.repeat(array, cols // array.shape[1], axis=1)
    return array.reshape(-1, 1)


@overload
def load_tensor(path: Place, name: str, form: Literal["planes"] = "planes") -> Planes: ...
@overload
def load_tensor(path: Place, name: str, form: Literal["codes"]) -> Codes: ...
@overload
def load_tensor(path: Place, name: str, form: Literal["int8"]) -> Trits: ...
@overload
def load_tensor(path: Place, name: str, form: Literal["float32"]) -> Floats: ...
@overload
def load_tensor(path: Place, name: str, form: Form) -> Tensor: ...
def load_tensor(path: Place, name: str, form: Form = "planes") -> Tensor:
    """One tensor of a file; see :meth:`File.load_tensor`."""
    with open(path) as file:
        return file.load_tensor(name, form)


@overload
def load_layer(path: Place, layer: int, form: Literal["planes"] = "planes") -> dict[str, Planes]: ...
@overload
def load_layer(path: Place, layer: int, form: Literal["codes"]) -> dict[str, Codes]: ...
@overload
def load_layer(path: Place, layer: int, form: Literal["int8"]) -> dict[str, Trits]: ...
@overload
def load_layer(path: Place, layer: int, form: Literal["float32"]) -> dict[str, Floats]: ...
@overload
def load_layer(path: Place, layer: int, form: Form) -> dict[str, Tensor]: ...
def load_layer(path: Place, layer: int, form: Form = "planes") -> dict[str, Any]:
    """The linears of one layer of a file; see :meth:`File.load_layer`."""
    with open(path) as file:
        return file.load_layer(layer, form)
