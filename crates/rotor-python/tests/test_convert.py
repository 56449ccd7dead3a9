"""Conversions: every form to every other and back, the same model throughout."""

from pathlib import Path

import numpy as np
import pytest

import rotor
from rotor import _rotor, gguf


@pytest.mark.parametrize("form", [form for form in _rotor.targets() if form != "q1_0"])
def test_every_form_holds_the_same_model(tiny: Path, tmp_path: Path, form: str):
    suffix = {"hf": "", "rotor": ".safetensors", "bitnet": ".safetensors"}.get(form, ".gguf")
    output = tmp_path / f"converted{suffix}"
    report = rotor.convert(tiny, output, form, verify=True)
    assert report["form"] == form and report["verified"] and len(report["ternary"]) == 28
    assert all(len(file["sha256"]) == 64 for file in report["files"])
    ours, theirs = gguf.load_layer(tiny, 1, "int8"), gguf.load_layer(output, 1, "int8")
    for part in ours:
        assert np.array_equal(ours[part].values, theirs[part].values)
    with rotor.Model.load(tiny) as model, rotor.Model.load(output) as other:
        ids = list(range(0, 900, 30))
        found, expected = other.logits(ids), model.logits(ids)
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.8
        if all(tensor["scale_rounding"] == 0 for tensor in report["ternary"]):
            assert found.tobytes() == expected.tobytes()


def test_what_a_form_cannot_hold_is_refused(tiny: Path, tmp_path: Path):
    with pytest.raises(rotor.FormatError, match="q1_0"):
        rotor.convert(tiny, tmp_path / "out.gguf", "q1_0")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="known types are i2_s"):
        rotor.convert(tiny, tmp_path / "out.gguf", "q9")
    with pytest.raises(ValueError, match="head must be"):
        rotor.convert(tiny, tmp_path / "out.gguf", "i2_s", head="f8")
    with pytest.raises(FileNotFoundError):
        rotor.convert(tmp_path / "missing.gguf", tmp_path / "out.gguf", "i2_s")
    with pytest.raises(ValueError, match=r"tiny\.gguf"):
        rotor.convert(tiny, tiny, "rotor")


def test_inspect_counts_trits(tiny: Path):
    report = rotor.inspect(tiny, trits=True)
    counted = {tensor["name"]: tensor for tensor in report["trits"]}
    values = gguf.load_tensor(tiny, "blk.3.ffn_gate.weight", "int8").values
    found = counted["blk.3.ffn_gate.weight"]
    assert (found["minus"], found["zero"], found["plus"]) == tuple(int((values == trit).sum()) for trit in (-1, 0, 1))
    assert "trits" not in rotor.inspect(tiny)
