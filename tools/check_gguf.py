#!/usr/bin/env python3
"""Reads a GGUF with ggml's own Python package and checks what rotor wrote.

    python -m venv .venv && .venv/bin/pip install gguf==0.19.0
    .venv/bin/python tools/check_gguf.py MODEL.gguf [--reference OTHER.gguf]

Every tensor must decode to finite numbers. With --reference the two files must hold the same model: equal trits and
scales, and dense tensors as near as their types allow.
"""

import argparse
import sys

import numpy as np
from gguf import GGUFReader, constants, dequantize

I2_S = 36
# Root mean square of the error over that of the values, for normally distributed weights.
BOUNDS = {"Q8_0": 0.01, "Q6_K": 0.02, "Q4_K": 0.08}


def teach_i2_s():
    """I2_S is not one of ggml's types. Its 32 bytes of scale and filler are read apart."""
    types = constants.GGMLQuantizationType
    member = int.__new__(types, I2_S)
    member._name_, member._value_ = "I2_S", I2_S
    types._value2member_map_[I2_S] = member
    constants.GGML_QUANT_SIZES[member] = (128, 32)


def i2_s(reader, tensor):
    """Trits and scale, by the 128/32 layout."""
    elements = int(np.prod(tensor.shape))
    start = int(tensor.data_offset)
    packed = np.asarray(reader.data[start : start + elements // 4]).reshape(-1, 32)
    codes = np.stack([(packed >> shift) & 3 for shift in (6, 4, 2, 0)], axis=1)
    assert codes.max() <= 2, f"{tensor.name}: code 3"
    tail = start + elements // 4
    scale = np.frombuffer(bytes(reader.data[tail : tail + 4]), "<f4")[0]
    assert np.isfinite(scale) and scale > 0, f"{tensor.name}: scale {scale}"
    return codes.astype(np.int8) - 1, scale


def dense(tensor):
    values = dequantize(tensor.data, tensor.tensor_type)
    assert np.isfinite(values).all(), f"{tensor.name}: not finite"
    return values


def compare(tensor, other, reader, reference):
    if int(tensor.tensor_type) == I2_S:
        (trits, scale), (others, other_scale) = i2_s(reader, tensor), i2_s(reference, other)
        assert scale == other_scale and (trits == others).all(), f"{tensor.name} differs"
        return
    ours, theirs = dense(tensor).astype(np.float64), dense(other)
    error = np.sqrt(((ours - theirs) ** 2).mean() / (theirs.astype(np.float64) ** 2).mean())
    bound = max(BOUNDS.get(one.tensor_type.name, 0) for one in (tensor, other))
    print(f"{tensor.name}: {tensor.tensor_type.name} against {other.tensor_type.name}, relative error {error:.5f}")
    assert error <= bound, f"{tensor.name}: relative error {error} above {bound}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--reference")
    args = parser.parse_args()
    teach_i2_s()
    reader = GGUFReader(args.model)
    zeros = trits = 0
    for tensor in reader.tensors:
        if int(tensor.tensor_type) == I2_S:
            values, _ = i2_s(reader, tensor)
            zeros, trits = zeros + int((values == 0).sum()), trits + values.size
        else:
            dense(tensor)
    print(f"{args.model}: {len(reader.fields)} fields, {len(reader.tensors)} tensors, {trits} trits", end="")
    print(f", {100 * zeros / trits:.2f} % zeros" if trits else "")
    if args.reference:
        reference = GGUFReader(args.reference)
        others = {tensor.name: tensor for tensor in reference.tensors}
        assert {tensor.name for tensor in reader.tensors} == others.keys(), "the files hold different tensors"
        for tensor in reader.tensors:
            compare(tensor, others[tensor.name], reader, reference)


if __name__ == "__main__":
    sys.exit(main())
