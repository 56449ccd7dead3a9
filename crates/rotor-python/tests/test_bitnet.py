"""Conversions against plain numpy, bit for bit."""

import numpy as np
import pytest

from conftest import shapes, variants, weights
from rotor import synth
from rotor.bitnet import (
    bitnet_to_rotor,
    decode_bitnet_array,
    encode_bitnet_array,
    rotor_to_bitnet,
    validate_conversion,
)
from rotor.core import RotorCore


def numpy_codes(values: np.ndarray) -> np.ndarray:
    """Codes from the definition: 2 bits a weight, 10 for +1 and 01 for -1, the first weight lowest."""
    columns = values.shape[-1]
    quads = np.zeros((*values.shape[:-1], -(-columns // 4), 4), np.uint8)
    codes = np.where(values == 1, 2, np.where(values == -1, 1, 0))
    for column in range(columns):
        quads[..., column // 4, column % 4] = codes[..., column]
    return (quads << np.array([0, 2, 4, 6], np.uint8)).sum(axis=-1, dtype=np.uint8)


def numpy_planes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.packbits(values == sign, axis=-1, bitorder="little") for sign in (1, -1))


def test_worked_example():
    values = np.array([1, -1, 0, 1, 0, 0, -1, -1, 1], np.int8)
    codes = np.array([0x86, 0x50, 0x02], np.uint8)
    assert encode_bitnet_array(values).tolist() == codes.tolist()
    bit0, bit1 = bitnet_to_rotor(codes, 9)
    assert (bit0.tolist(), bit1.tolist()) == ([0x09, 0x01], [0xC2, 0x00])
    assert decode_bitnet_array(codes, 9).tolist() == values.tolist()
    assert rotor_to_bitnet(bit0, bit1, 9).tolist() == codes.tolist()


def test_every_conversion_is_that_of_numpy():
    rng = np.random.default_rng(1)
    for shape in shapes(rng, 40):
        values = weights(rng, shape)
        n = shape[-1]
        codes, (bit0, bit1) = numpy_codes(values), numpy_planes(values)
        for laid_out in variants(values):
            np.testing.assert_array_equal(encode_bitnet_array(laid_out), codes)
            for found, expected in zip(RotorCore.encode(laid_out), (bit0, bit1), strict=True):
                np.testing.assert_array_equal(found, expected)
        for laid_out in variants(codes):
            np.testing.assert_array_equal(decode_bitnet_array(laid_out, n), values)
            for found, expected in zip(bitnet_to_rotor(laid_out, n), (bit0, bit1), strict=True):
                np.testing.assert_array_equal(found, expected)
        for plus, minus in zip(variants(bit0), variants(bit1), strict=True):
            np.testing.assert_array_equal(rotor_to_bitnet(plus, minus, n), codes)
            np.testing.assert_array_equal(RotorCore.decode(plus, minus, n), values)
        assert encode_bitnet_array(values).dtype == np.uint8
        assert decode_bitnet_array(codes, n).dtype == np.int8
        assert validate_conversion(codes)


def test_a_layer_of_four_million_weights_comes_back():
    layer = synth.create_bitnet_layer(1024, 4096, zeros=0.4, seed=7)
    assert layer.dtype == np.int8 and abs((layer == 0).mean() - 0.4) < 0.001
    codes = encode_bitnet_array(layer)
    bit0, bit1 = bitnet_to_rotor(codes)
    assert (codes.nbytes, bit0.nbytes + bit1.nbytes) == (1 << 20, 1 << 20)
    assert np.array_equal(rotor_to_bitnet(bit0, bit1), codes)
    assert np.array_equal(decode_bitnet_array(codes), layer)
    assert np.array_equal(RotorCore.decode(bit0, bit1), layer)
    assert validate_conversion(codes)


def test_without_n_rows_have_as_many_weights_as_they_have_room_for():
    values = np.array([[1, -1, 1]], np.int8)
    assert decode_bitnet_array(encode_bitnet_array(values)).tolist() == [[1, -1, 1, 0]]
    assert RotorCore.decode(*RotorCore.encode(values)).tolist() == [[1, -1, 1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("n", [4, 9, 100])
def test_an_n_that_does_not_fit_the_bytes_is_refused(n: int):
    with pytest.raises(ValueError, match=rf"rows of 2 bytes hold 5 to 8 weights, but n is {n}"):
        decode_bitnet_array(np.zeros(2, np.uint8), n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda strict: encode_bitnet_array(np.array([[0, 2], [-128, 1]], np.int8), strict=strict), r"2 invalid, the first at index \[0, 1\] \(the number 2\)"),
        (lambda strict: RotorCore.encode(np.array([0, 0, 3], np.int8), strict=strict), r"1 invalid, the first at index \[2\] \(the number 3\)"),
        (lambda strict: decode_bitnet_array(np.array([0, 0b1100], np.uint8), strict=strict), r"1 invalid, the first at index \[5\] \(code 11\)"),
        (lambda strict: bitnet_to_rotor(np.full((3, 2), 0xFF, np.uint8), strict=strict), r"24 invalid, the first at index \[0, 0\] \(code 11\)"),
        (lambda strict: rotor_to_bitnet(np.array([1], np.uint8), np.array([3], np.uint8), strict=strict), r"1 invalid, the first at index \[0\] \(set in both planes\)"),
        (lambda strict: RotorCore.decode(np.array([9], np.uint8), np.array([8], np.uint8), strict=strict), r"1 invalid, the first at index \[3\]"),
        (lambda strict: decode_bitnet_array(np.array([0x40], np.uint8), 3, strict=strict), r"1 invalid, the first at index \[3\] \(not zero beyond"),
    ],
)  # fmt: skip
def test_what_is_no_weight_is_counted_and_placed(call, message: str):
    with pytest.raises(ValueError, match=message):
        call(True)
    with pytest.warns(UserWarning, match=message + r".*; read as 0"):
        result = call(False)
    assert result is not None


def test_lenient_conversions_read_what_is_invalid_as_zero():
    with pytest.warns(UserWarning):
        codes = encode_bitnet_array(np.array([1, 7, -1, -9], np.int8), strict=False)
    assert decode_bitnet_array(codes).tolist() == [1, 0, -1, 0]
    with pytest.warns(UserWarning):
        assert decode_bitnet_array(np.array([0b01_11_10_11], np.uint8), strict=False).tolist() == [0, 1, 0, -1]
    with pytest.warns(UserWarning):
        assert RotorCore.decode(np.array([3], np.uint8), np.array([6], np.uint8), strict=False)[:3].tolist() == [
            1,
            0,
            -1,
        ]


def test_the_first_of_many_is_found_where_threads_share_the_work():
    layer = synth.create_bitnet_layer(2000, 4000)
    layer[1999, 3] = layer[1200, 17] = layer[700, 5] = 9
    with pytest.raises(ValueError, match=r"3 invalid, the first at index \[700, 5\] \(the number 9\)"):
        encode_bitnet_array(layer)


def test_a_warning_points_at_the_caller():
    with pytest.warns(UserWarning) as caught:
        encode_bitnet_array(np.array([5], np.int8), strict=False)
    assert caught[0].filename == __file__


def test_validate_conversion_says_whether_codes_are_sound():
    assert validate_conversion(np.array([[0b10_01_00_10]], np.uint8))
    assert not validate_conversion(np.array([[0, 0b11]], np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", "<i4", ">i8", np.float32, bool, object, "U1", "m8[s]"])
def test_another_type_is_refused_by_name(dtype):
    array = np.zeros((2, 3), dtype)
    with pytest.raises(TypeError, match=r"values: expected an array of int8, found"):
        encode_bitnet_array(array)


@pytest.mark.parametrize("thing", [[1, 0, -1], "abc", None, 3, memoryview(b"abc")])
def test_what_is_no_array_is_refused(thing):
    with pytest.raises(TypeError, match="values: expected a numpy array of int8, found"):
        encode_bitnet_array(thing)


def test_other_dimensions_are_refused():
    for shape in [(), (2, 3, 4)]:
        with pytest.raises(ValueError, match=f"values: expected 1 or 2 dimensions, found {len(shape)}"):
            encode_bitnet_array(np.zeros(shape, np.int8))
    with pytest.raises(ValueError, match=r"one shape, found \[2, 3\] and \[2, 4\]"):
        rotor_to_bitnet(np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8))


def test_subclasses_and_masked_arrays_are_read_as_what_they_hold():
    assert encode_bitnet_array(np.ma.masked_array(np.array([1, -1], np.int8))).tolist() == [0b0110]


def test_the_input_is_left_alone():
    layer = synth.create_bitnet_layer(64, 100)
    before = layer.copy()
    RotorCore.decode(*bitnet_to_rotor(encode_bitnet_array(layer)))
    assert np.array_equal(layer, before)
