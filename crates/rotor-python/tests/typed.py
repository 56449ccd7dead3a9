"""What a type checker makes of the installed package: mypy reads this, nothing runs it."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import rotor
from rotor import bitnet, gguf
from rotor.core import PackedMatrix, RotorCore

Trits = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


def arrays(values: Trits, x: Trits) -> None:
    codes = bitnet.encode_bitnet_array(values)
    assert_type(codes, Bytes)
    assert_type(bitnet.decode_bitnet_array(codes, 5), Trits)
    bit0, bit1 = bitnet.bitnet_to_rotor(codes, strict=False)
    assert_type(bitnet.rotor_to_bitnet(bit0, bit1, n=5), Bytes)
    assert_type(bitnet.validate_conversion(codes), bool)
    assert_type(RotorCore.matvec(bit0, bit1, x, transpose=True), Sums)
    assert_type(RotorCore.dot(bit0[0], bit1[0], x), int)
    packed = RotorCore.pack(bit0, bit1)
    assert_type(packed, PackedMatrix)
    assert_type(packed.matmul(values), Sums)
    assert_type(rotor.synth.create_bitnet_layer(2, 3, zeros=0.4, seed=1), Trits)


def files(path: Path) -> None:
    with gguf.open(path) as file:
        assert_type(file.tensors, list[gguf.TensorInfo])
        assert_type(file.load_tensor("x", "int8"), gguf.Trits)
        assert_type(file.load_layer(0), dict[str, gguf.Planes])
    assert_type(gguf.load_tensor(None, "x", "float32").values, npt.NDArray[np.float32])
    assert_type(gguf.load_layer("rotor-tiny", 0, "codes")["attn_q"].codes, Bytes)
    assert_type(rotor.inspect(path), dict[str, Any])
    assert_type(rotor.convert(path, "out.gguf", "i2_s"), dict[str, Any])


def models(path: Path) -> None:
    with rotor.Model.load(path, threads=2, kv="f32") as model:
        completion = model.generate("Once", max_tokens=3, temperature=0.8, stop=["."], logprobs=2, seed=1)
        assert_type(completion, rotor.Completion)
        assert_type(completion.tokens, list[int])
        assert_type(model.chat([{"role": "user", "content": "Hello"}]), rotor.Completion)
        assert_type(model.logits(model.tokenize("Once")), npt.NDArray[np.float32])
        assert_type(model.perplexity("Once").standard_error, float)
        for piece in model.stream("Once"):
            assert_type(piece, str)
        model.generate("Once", temprature=0.8)  # type: ignore[call-arg]
        model.generate("Once", max_tokens="many")  # type: ignore[arg-type]


async def streams(model: rotor.Model) -> None:
    async with model.stream("Once", max_tokens=3) as stream:
        async for piece in stream:
            assert_type(piece, str)
            await asyncio.sleep(0)
    assert_type(stream.completion, rotor.Completion | None)
