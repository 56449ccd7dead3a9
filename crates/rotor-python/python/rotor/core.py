"""Exact arithmetic on Rotor bit planes: ``bit0`` marks +1, ``bit1`` marks -1, eight weights a byte (see
:mod:`rotor.bitnet`).

Which product?
    Weights ``W`` are ``[rows, cols]``. A vector of ``cols`` elements gives ``W @ x`` (``[rows]``); otherwise a vector
    of ``rows`` elements gives ``x @ W`` (``[cols]``); a square matrix gives ``W @ x``; anything else raises
    ``ValueError``. ``transpose=False`` insists on ``W @ x``, ``transpose=True`` on ``x @ W``. Planes tell ``cols`` only
    up to a multiple of eight: ``W @ x`` takes it from ``x``, and ``x @ W`` assumes the multiple unless ``n`` says
    otherwise.

Sums are exact int32, for every int8 input including -128.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rotor import _rotor

__all__ = ["PackedMatrix", "RotorCore"]


class PackedMatrix:
    """A ternary matrix in the layout the kernels read, for repeated products. Made by :meth:`RotorCore.pack`.

    It cannot change, and any number of threads may use it.
    """

    __slots__ = ("_packed",)

    def __init__(self, packed: _rotor.PackedMatrix) -> None:
        self._packed = packed

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weights."""
        return self._packed.shape

    @property
    def nbytes(self) -> int:
        """Bytes of memory: two bits a weight or less, by the kernel; about twice that once ``x @ W`` was asked for."""
        return self._packed.nbytes

    def matvec(self, x: npt.NDArray[np.int8], *, transpose: bool | None = None) -> npt.NDArray[np.int32]:
        """``W @ x`` or ``x @ W``, by the rule of this module.

        Args:
            x: int8 ``[cols]`` or ``[rows]``.
            transpose: says outright which product.

        Returns:
            int32 ``[rows]`` or ``[cols]``. The first ``x @ W`` packs the matrix a second time, transposed.
        """
        return self._packed.matvec(x, transpose)

    def matmul(self, x: npt.NDArray[np.int8], *, transpose: bool | None = None) -> npt.NDArray[np.int32]:
        """``W @ X`` or ``X @ W``.

        Args:
            x: int8 ``[cols, k]`` (read without a copy if it is the transpose of a contiguous array) or ``[k, rows]``.
            transpose: says outright which product.

        Returns:
            int32 ``[rows, k]`` (in Fortran order) or ``[k, cols]``.
        """
        return self._packed.matmul(x, transpose)

    def __repr__(self) -> str:
        return f"PackedMatrix(shape={self.shape}, nbytes={self.nbytes})"


class RotorCore:
    """The operations on bit planes. All are static: ``RotorCore.matvec`` and ``RotorCore().matvec`` are the same."""

    @staticmethod
    def encode(
        values: npt.NDArray[np.int8], *, strict: bool = True
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """int8 weights ``[m, n]`` or ``[n]`` to planes ``(bit0, bit1)``, uint8 ``[m, ceil(n/8)]`` or ``[ceil(n/8)]``.

        Raises:
            ValueError: for numbers other than -1, 0 and +1; with ``strict=False`` they become 0, with a warning.
        """
        return _rotor.trits_to_planes(values, strict)

    @staticmethod
    def decode(
        bit0: npt.NDArray[np.uint8], bit1: npt.NDArray[np.uint8], n: int | None = None, *, strict: bool = True
    ) -> npt.NDArray[np.int8]:
        """Planes ``[m, k]`` or ``[k]`` to int8 weights ``[m, n]`` or ``[n]``; ``n`` is ``8 * k`` unless given.

        Raises:
            ValueError: for weights set in both planes; with ``strict=False`` they become 0, with a warning.
        """
        return _rotor.planes_to_trits(bit0, bit1, n, strict)

    @staticmethod
    def negate(
        bit0: npt.NDArray[np.uint8], bit1: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The planes of ``-W``: the same two arrays, exchanged. Nothing is copied."""
        return bit1, bit0

    @staticmethod
    def check_errors(bit0: npt.NDArray[np.uint8], bit1: npt.NDArray[np.uint8], n: int | None = None) -> int:
        """How many weights are set in both planes, or lie beyond the last of ``n`` columns and are not zero."""
        return _rotor.invalid_planes(bit0, bit1, n)

    @staticmethod
    def dot(bit0: npt.NDArray[np.uint8], bit1: npt.NDArray[np.uint8], x: npt.NDArray[np.int8]) -> int:
        """The sum of weight times activation of one row: planes ``[ceil(n/8)]``, ``x`` int8 ``[n]``."""
        if bit0.ndim != 1:
            raise ValueError(f"dot takes the planes of one row, found {bit0.ndim} dimensions; see matvec")
        return int(_rotor.matvec(bit0, bit1, x, None, False, True)[0])

    @staticmethod
    def matvec(
        bit0: npt.NDArray[np.uint8],
        bit1: npt.NDArray[np.uint8],
        x: npt.NDArray[np.int8],
        *,
        n: int | None = None,
        transpose: bool | None = None,
        strict: bool = True,
    ) -> npt.NDArray[np.int32]:
        """``W @ x`` or ``x @ W``, by the rule of this module, straight from the planes.

        For the same weights again and again, :meth:`pack` them.

        Args:
            bit0: uint8 ``[rows, ceil(cols/8)]``, set where a weight is +1.
            bit1: the same shape, set where a weight is -1.
            x: int8 ``[cols]`` or ``[rows]``.
            n: the number of columns, where ``x`` does not tell.
            transpose: says outright which product.
            strict: whether a weight set in both planes raises; else it counts as 0, with a warning.

        Returns:
            int32 ``[rows]`` or ``[cols]``.
        """
        return _rotor.matvec(bit0, bit1, x, n, transpose, strict)

    @staticmethod
    def matmul(
        bit0: npt.NDArray[np.uint8],
        bit1: npt.NDArray[np.uint8],
        x: npt.NDArray[np.int8],
        *,
        n: int | None = None,
        transpose: bool | None = None,
        strict: bool = True,
    ) -> npt.NDArray[np.int32]:
        """``W @ X`` (``X`` int8 ``[cols, k]``) or ``X @ W`` (``[k, rows]``), by the rule of this module.

        Args and errors are those of :meth:`matvec`.

        Returns:
            int32 ``[rows, k]`` (in Fortran order) or ``[k, cols]``.
        """
        return _rotor.matmul(bit0, bit1, x, n, transpose, strict)

    @staticmethod
    def pack(
        bit0: npt.NDArray[np.uint8], bit1: npt.NDArray[np.uint8], n: int | None = None, *, strict: bool = True
    ) -> PackedMatrix:
        """Rearranges planes ``[rows, ceil(cols/8)]`` once, for repeated products; ``n`` columns, 8 per byte by default.

        Raises:
            ValueError: for weights set in both planes; with ``strict=False`` they become 0, with a warning.
        """
        return PackedMatrix(_rotor.PackedMatrix(bit0, bit1, n, strict))
