#!/usr/bin/env python3
"""Holds rotor against ggml's own Python package: each reads what the other writes.

    python -m venv .venv && .venv/bin/pip install gguf==0.19.0
    .venv/bin/python tools/check_gguf.py MODEL.gguf [--reference OTHER.gguf]
    .venv/bin/python tools/check_gguf.py --rotor target/release/rotor

Every tensor of MODEL must decode to finite numbers. With --reference the two files must hold the same model: equal trits
and scales, and dense tensors as near as their types allow. With --rotor the package writes a model of random blocks in
every type both know: rotor must extract the numbers that the package decodes, bit for bit, what it converts of them must
be the bytes that the package's own quantiser makes, and a head that it encodes must decode to the same numbers in both.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, constants, dequantize, quantize

I2_S = 36
# Root mean square of the error over that of the values, for normally distributed weights.
BOUNDS = {"F16": 0.001, "Q8_0": 0.01, "Q6_K": 0.02, "Q4_K": 0.08}
# What `--head` takes.
HEADS = ["f16", "q8_0", "q6_k", "q4_k"]


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


# The linears of a layer: rows and columns that blocks of 256 divide.
LINEARS = {
    "attn_q": (256, 256),
    "attn_k": (128, 256),
    "attn_v": (128, 256),
    "attn_output": (256, 256),
    "ffn_gate": (512, 256),
    "ffn_up": (512, 256),
    "ffn_down": (256, 512),
}
TERNARY = ["TQ1_0", "TQ2_0"]
QUANTISED = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
# The package only reads these. Random bytes are blocks of theirs but for the f16 fields at these places.
READ_ONLY = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def random_tensor(rng, kind, shape):
    """A tensor's numbers as stored in a type."""
    dtype = GGMLQuantizationType[kind]
    if kind in READ_ONLY:
        block, size = constants.GGML_QUANT_SIZES[dtype]
        stored = rng.integers(0, 256, (shape[0], shape[1] // block, size), dtype=np.uint8)
        for at in READ_ONLY[kind]:
            fields = rng.uniform(-1, 1, stored.shape[:2]).astype("<f2")
            stored[:, :, at : at + 2] = fields[..., None].view(np.uint8)
        return stored.reshape(shape[0], -1), dtype
    values = rng.standard_normal(shape).astype(np.float32)
    if kind in TERNARY:
        scales = rng.uniform(0.01, 2, (shape[0], shape[1] // 256, 1)).astype(np.float16).astype(np.float32)
        trits = rng.integers(-1, 2, (shape[0], shape[1] // 256, 256)).astype(np.float32)
        values = (trits * scales).reshape(shape)
    return quantize(values, dtype), dtype


def write_model(path, rng):
    """A llama whose linears take turns with the types."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([chr(ord("a") + token) for token in range(26)])
    writer.add_token_types([1] * 26)
    writer.add_token_merges(["a b"])
    writer.add_tensor("token_embd.weight", rng.standard_normal((26, 256)).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(256, np.float32))
    kinds = TERNARY + QUANTISED + list(READ_ONLY)
    for layer in range(2):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(256, np.float32))
        for index, (name, shape) in enumerate(LINEARS.items()):
            stored, dtype = random_tensor(rng, kinds[(7 * layer + index) % len(kinds)], shape)
            writer.add_tensor(f"blk.{layer}.{name}.weight", stored, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def same_bits(ours, theirs):
    return ours.shape == theirs.shape and (ours.view(np.uint32) == theirs.view(np.uint32)).all()


def check_rotor(rotor):
    def run(*arguments):
        subprocess.run([rotor, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = folder / "model.gguf"
        write_model(model, np.random.default_rng(1))
        source = {tensor.name: tensor for tensor in GGUFReader(model).tensors}
        checked = set()
        for name, tensor in source.items():
            array = folder / "tensor.npy"
            array.unlink(missing_ok=True)
            run("extract", model, "--tensor", name, "--as", "f32", "-o", array)
            # A zero may have either sign: -0 is what multiplies a negative scale, and nothing tells them apart.
            ours, theirs = np.load(array) + 0.0, dense(tensor).astype(np.float32) + 0.0
            assert same_bits(ours, theirs), f"{name} ({tensor.tensor_type.name}): rotor reads other numbers"
            checked.add(tensor.tensor_type.name)
        print(f"rotor reads as ggml does: {', '.join(sorted(checked))}")
        for kind in TERNARY:
            out = folder / f"{kind.lower()}.gguf"
            run("convert", model, out, "--type", kind.lower(), "--verify")
            for tensor in GGUFReader(out).tensors:
                before = source[tensor.name]
                if before.tensor_type.name not in TERNARY:
                    assert (tensor.data == before.data).all(), f"{tensor.name} is not as it was"
                    continue
                assert tensor.tensor_type.name == kind, f"{tensor.name} is {tensor.tensor_type.name}"
                expected = quantize(dense(before), tensor.tensor_type)
                assert (tensor.data == expected).all(), f"{tensor.name}: ggml writes other bytes as {kind}"
            print(f"rotor writes {kind} as ggml does")
        check_heads(run, model, dense(source["token_embd.weight"]), folder)


def check_heads(run, model, values, folder):
    """The embedding in each type that rotor encodes: decoded alike by both, and near what it was."""
    for kind in HEADS:
        out, array = folder / f"{kind}.gguf", folder / f"{kind}.npy"
        run("convert", model, out, "--type", "tq2_0", "--head", kind, "--verify")
        run("extract", out, "--tensor", "token_embd.weight", "--as", "f32", "-o", array)
        head = next(tensor for tensor in GGUFReader(out).tensors if tensor.name == "token_embd.weight")
        assert head.tensor_type.name == kind.upper(), f"{kind}: found {head.tensor_type.name}"
        theirs = dense(head).astype(np.float32)
        assert same_bits(np.load(array) + 0.0, theirs + 0.0), f"{kind}: the package decodes other numbers"
        error = np.sqrt(((theirs - values) ** 2).mean() / (values**2).mean())
        assert error <= BOUNDS[head.tensor_type.name], f"{kind}: relative error {error}"
    print(f"ggml reads the heads that rotor encodes: {', '.join(HEADS)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--reference")
    parser.add_argument("--rotor", help="the command to hold against the package")
    args = parser.parse_args()
    if args.rotor:
        check_rotor(args.rotor)
    if not args.model:
        return parser.error("name a model or --rotor") if not args.rotor else None
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
