"""Files: tensors as arrays, held against the engine's own use of them."""

from pathlib import Path

import numpy as np
import pytest

import rotor
from conftest import HF_TINY
from rotor import gguf
from rotor.bitnet import decode_bitnet_array
from rotor.core import RotorCore


def test_a_file_lists_its_tensors_and_metadata(tiny: Path):
    with gguf.open(tiny) as file:
        assert file.kind == "GGUF" and file.warnings == []
        assert file.metadata["general.architecture"] == "bitnet-b1.58"
        assert len(file.metadata["tokenizer.ggml.tokens"]) == 1024
        names = {tensor.name: tensor for tensor in file.tensors}
        q = names["blk.0.attn_q.weight"]
        assert q.shape == (256, 256) and q.type == "i2_s" and q.nbytes >= 256 * 256 // 4
        assert file.config["num_hidden_layers"] == 4
        assert "eot_id" in file.chat_template
    with pytest.raises(ValueError, match="the file is closed"):
        file.tensors  # noqa: B018


def test_every_form_of_a_tensor_is_the_same_tensor(tiny: Path):
    with gguf.open(tiny) as file:
        for part, name in [("attn_k", "blk.2.attn_k.weight"), ("ffn_down", "blk.2.ffn_down.weight")]:
            values, scale = file.load_tensor(name, "int8")
            assert values.dtype == np.int8 and set(np.unique(values)) == {-1, 0, 1}
            assert abs((values == 0).mean() - 0.4) < 0.02 and isinstance(scale, float)
            planes = file.load_layer(2)[part]
            assert planes.scale == scale
            assert np.array_equal(RotorCore.decode(planes.bit0, planes.bit1, values.shape[1]), values)
            codes = file.load_tensor(name, "codes")
            assert np.array_equal(decode_bitnet_array(codes.codes, values.shape[1]), values)
            floats = file.load_tensor(name, "float32")
            assert floats.values.dtype == np.float32
            assert np.array_equal(floats.values, values * np.float32(scale))
    assert np.array_equal(gguf.load_tensor(tiny, name).bit0, planes.bit0)
    assert list(gguf.load_layer(tiny, 0, "int8")) == [
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"
    ]  # fmt: skip


def test_dense_tensors_are_floats(tiny: Path):
    with gguf.open(tiny) as file:
        embedding = file.load_tensor("token_embd.weight", "float32")
        assert embedding.values.shape == (1024, 256) and embedding.scale == 1.0
        norm = file.load_tensor("output_norm.weight", "float32")
        assert norm.values.shape == (256,) and (np.abs(norm.values - 1) <= 0.25).all()
        with pytest.raises(ValueError, match="not ternary but f16"):
            file.load_tensor("token_embd.weight", "planes")


def test_a_gguf_and_a_folder_of_one_seed_hold_the_same_weights(tiny: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    report = rotor.synth.create_model("tiny", folder, type="hf")
    assert report.ternary_weights == 3145728 and report.bytes > 0
    for layer in range(4):
        ours, theirs = gguf.load_layer(tiny, layer, "int8"), gguf.load_layer(folder, layer, "int8")
        for part in ours:
            assert np.array_equal(ours[part].values, theirs[part].values)
            assert ours[part].scale == pytest.approx(theirs[part].scale, rel=1e-6)


def test_master_weights_are_quantised_as_the_model_uses_them():
    values, scale = gguf.load_tensor(HF_TINY / "bitnet-online", "model.layers.0.self_attn.q_proj.weight", "int8")
    assert set(np.unique(values)) == {-1, 0, 1} and scale > 0


def test_a_linear_is_its_tensor_times_its_input(tiny: Path):
    """What a linear layer computes, from the pieces that Python sees."""
    planes = gguf.load_tensor(tiny, "blk.1.ffn_up.weight")
    values, scale = gguf.load_tensor(tiny, "blk.1.ffn_up.weight", "int8")
    x = np.random.default_rng(8).standard_normal(256).astype(np.float32)
    s = np.float32(127) / np.abs(x).max()
    quantized = np.clip(np.rint(x * s), -128, 127).astype(np.int8)
    dot = RotorCore.matvec(planes.bit0, planes.bit1, quantized)
    expected = (values.astype(np.float64) * scale) @ (quantized / np.float64(s))
    np.testing.assert_allclose(dot * planes.scale / s, expected, rtol=1e-5, atol=1e-9)


def test_what_is_not_there_is_named(tiny: Path, tmp_path: Path):
    with gguf.open(tiny) as file:
        with pytest.raises(KeyError, match="nothing.weight"):
            file.load_tensor("nothing.weight")
        with pytest.raises(IndexError, match="layer 4 of a model with 4"):
            file.load_layer(4)
        with pytest.raises(ValueError, match="form must be"):
            file.load_tensor("token_embd.weight", "float64")
    with pytest.raises(FileNotFoundError):
        gguf.open(tmp_path / "missing.gguf")


def test_inspect_tells_it_all(tiny: Path):
    report = rotor.inspect(tiny)
    assert report["format"] == "GGUF" and report["config"]["vocab_size"] == 1024
    assert report["tokenizer"]["tokens"] == 1024 and report["chat_template"]
    assert report["memory"]["weights_bytes"] > 0
    assert report["memory"]["total_bytes"] == report["memory"]["weights_bytes"] + report["memory"]["kv_bytes"]
    assert {"name": "output_norm.weight", "shape": (256,), "type": "f32", "nbytes": 1024} in report["tensors"]


def test_synthetic_layers_depend_on_their_seed():
    layer = rotor.synth.create_bitnet_layer
    assert np.array_equal(layer(10, 20, seed=3), layer(10, 20, seed=3))
    assert not np.array_equal(layer(10, 20, seed=3), layer(10, 20, seed=4))
    assert (layer(10, 20, zeros=1.0) == 0).all() and (layer(10, 20, zeros=0.0) != 0).all()
    assert layer(0, 5).shape == (0, 5)
    with pytest.raises(ValueError, match="zeros must be between 0 and 1"):
        layer(2, 2, zeros=1.5)
    with pytest.raises((ValueError, OverflowError, MemoryError)):
        layer(1 << 40, 1 << 40)
    with pytest.raises(ValueError, match="unknown preset"):
        rotor.synth.create_model("gpt-5", "nowhere.gguf")
    with pytest.raises(ValueError, match="type must be"):
        rotor.synth.create_model("tiny", "nowhere.gguf", type="q4")
    with pytest.raises(ValueError, match="head must be"):
        rotor.synth.create_model("tiny", "nowhere.gguf", head="f8")
    assert "bitnet-2b-4t" in rotor.synth.presets()
