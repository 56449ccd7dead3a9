"""int8 weights, 2-bit BitNet codes and Rotor bit planes into each other, without loss.

=========  ===============================  ==========================================================
form       array                            a weight
=========  ===============================  ==========================================================
weights    int8 ``[m, n]``                  -1, 0 or +1
codes      uint8 ``[m, ceil(n/4)]``         2 bits, the lowest first: 00 = 0, 10 = +1, 01 = -1
planes     2 x uint8 ``[m, ceil(n/8)]``     bit ``i % 8`` of byte ``i // 8``: ``bit0`` for +1, ``bit1`` for -1
=========  ===============================  ==========================================================

A one-dimensional array counts as one row and gives one-dimensional arrays. What a row's last byte has beyond the last
weight is zero. Arrays are read where they lie if their elements are contiguous, and copied first if not.

Every function raises ``TypeError`` for an array of another type, and ``ValueError`` for another shape and for anything
that is no weight: numbers other than -1, 0 and +1, the code 11, a weight set in both planes, bits beyond the last
weight. The message gives their number and the index of the first. With ``strict=False`` they are read as 0 and a
``UserWarning`` says so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rotor import _rotor

__all__ = [
    "bitnet_to_rotor",
    "decode_bitnet_array",
    "encode_bitnet_array",
    "rotor_to_bitnet",
    "validate_conversion",
]


def encode_bitnet_array(values: npt.NDArray[np.int8], *, strict: bool = True) -> npt.NDArray[np.uint8]:
    """Weights to codes.

    Args:
        values: int8 ``[m, n]`` or ``[n]``.
        strict: whether numbers other than -1, 0 and +1 raise; else they become 0, with a warning.

    Returns:
        uint8 ``[m, ceil(n/4)]`` or ``[ceil(n/4)]``.
    """
    return _rotor.trits_to_codes(values, strict)


def decode_bitnet_array(
    codes: npt.NDArray[np.uint8], n: int | None = None, *, strict: bool = True
) -> npt.NDArray[np.int8]:
    """Codes to weights.

    Args:
        codes: uint8 ``[m, k]`` or ``[k]``.
        n: weights per row, where it is not ``4 * k``.
        strict: whether the code 11 raises; else it becomes 0, with a warning.

    Returns:
        int8 ``[m, n]`` or ``[n]``.
    """
    return _rotor.codes_to_trits(codes, n, strict)


def bitnet_to_rotor(
    codes: npt.NDArray[np.uint8], n: int | None = None, *, strict: bool = True
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Codes to planes.

    Args:
        codes: uint8 ``[m, k]`` or ``[k]``.
        n: weights per row, where it is not ``4 * k``.
        strict: whether the code 11 raises; else it becomes 0, with a warning.

    Returns:
        ``(bit0, bit1)``, each uint8 ``[m, ceil(n/8)]`` or ``[ceil(n/8)]``.
    """
    return _rotor.codes_to_planes(codes, n, strict)


def rotor_to_bitnet(
    bit0: npt.NDArray[np.uint8], bit1: npt.NDArray[np.uint8], n: int | None = None, *, strict: bool = True
) -> npt.NDArray[np.uint8]:
    """Planes to codes.

    Args:
        bit0: uint8 ``[m, k]`` or ``[k]``, set where a weight is +1.
        bit1: the same shape, set where a weight is -1.
        n: weights per row, where it is not ``8 * k``.
        strict: whether a weight set in both planes raises; else it becomes 0, with a warning.

    Returns:
        uint8 ``[m, ceil(n/4)]`` or ``[ceil(n/4)]``.
    """
    return _rotor.planes_to_codes(bit0, bit1, n, strict)


def validate_conversion(codes: npt.NDArray[np.uint8]) -> bool:
    """Whether codes survive the way to planes and back, bit for bit.

    Args:
        codes: uint8 ``[m, k]`` or ``[k]``.

    Returns:
        ``False`` if and only if a code is 11, which stands for no weight.
    """
    if _rotor.invalid_codes(codes, None):
        return False
    bit0, bit1 = bitnet_to_rotor(codes)
    return bool(np.array_equal(rotor_to_bitnet(bit0, bit1, 4 * codes.shape[-1]), codes))
