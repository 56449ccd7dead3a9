"""Products against plain numpy, exactly."""

import numpy as np
import pytest

from conftest import variants, weights
from rotor import synth
from rotor.core import RotorCore


def planes_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return RotorCore.encode(values)


def int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, size=shape, dtype=np.int8)


def test_products_are_those_of_numpy():
    rng = np.random.default_rng(2)
    for _ in range(60):
        rows, cols, k = (int(n) for n in rng.integers(1, 140, size=3))
        values = weights(rng, (rows, cols))
        wide, (bit0, bit1) = values.astype(np.int32), planes_of(values)
        packed = RotorCore.pack(bit0, bit1, cols)
        x, y, xs, ys = int8(rng, cols), int8(rng, rows), int8(rng, cols, k), int8(rng, k, rows)
        for transpose, vector, matrix in [(False, x, xs), (True, y, ys)]:
            product = wide @ vector if not transpose else vector.astype(np.int32) @ wide
            products = wide @ matrix if not transpose else matrix.astype(np.int32) @ wide
            for found in (
                RotorCore.matvec(bit0, bit1, vector, n=cols, transpose=transpose),
                packed.matvec(vector, transpose=transpose),
            ):
                assert found.dtype == np.int32
                np.testing.assert_array_equal(found, product)
            for found in (
                RotorCore.matmul(bit0, bit1, matrix, n=cols, transpose=transpose),
                packed.matmul(matrix, transpose=transpose),
            ):
                assert found.dtype == np.int32 and found.shape == products.shape
                np.testing.assert_array_equal(found, products)


def test_the_layout_of_the_arrays_does_not_matter():
    rng = np.random.default_rng(3)
    values = weights(rng, (37, 101))
    bit0, bit1 = planes_of(values)
    x, xs = int8(rng, 101), int8(rng, 101, 9)
    packed = RotorCore.pack(bit0, bit1, 101)
    for plus, minus in zip(variants(bit0), variants(bit1), strict=True):
        np.testing.assert_array_equal(RotorCore.matvec(plus, minus, x), values.astype(np.int32) @ x)
    for laid_out in variants(x):
        np.testing.assert_array_equal(packed.matvec(laid_out), values.astype(np.int32) @ x)
    for laid_out in variants(xs):
        np.testing.assert_array_equal(packed.matmul(laid_out), values.astype(np.int32) @ xs)
        np.testing.assert_array_equal(RotorCore.matmul(bit0, bit1, laid_out), values.astype(np.int32) @ xs)


def test_sums_of_the_largest_numbers_are_exact():
    for sign in (1, -1):
        values = np.full((3, 20000), sign, np.int8)
        bit0, bit1 = planes_of(values)
        for number in (-128, 127):
            x = np.full(20000, number, np.int8)
            assert RotorCore.matvec(bit0, bit1, x).tolist() == [sign * number * 20000] * 3
            assert RotorCore.pack(bit0, bit1).matvec(x).tolist() == [sign * number * 20000] * 3


def test_the_length_of_x_chooses_the_product():
    rng = np.random.default_rng(4)
    values = synth.create_bitnet_layer(1024, 4096, seed=4)
    bit0, bit1 = planes_of(values)
    wide = values.astype(np.int32)
    x, y = int8(rng, 4096), int8(rng, 1024)
    np.testing.assert_array_equal(RotorCore.matvec(bit0, bit1, x), wide @ x)
    np.testing.assert_array_equal(RotorCore.matvec(bit0, bit1, y), y.astype(np.int32) @ wide)
    square = weights(rng, (16, 16))
    z = int8(rng, 16)
    bit0, bit1 = planes_of(square)
    np.testing.assert_array_equal(RotorCore.matvec(bit0, bit1, z), square.astype(np.int32) @ z)
    np.testing.assert_array_equal(RotorCore.matvec(bit0, bit1, z, transpose=True), z.astype(np.int32) @ square)
    np.testing.assert_array_equal(RotorCore.pack(bit0, bit1).matvec(z), square.astype(np.int32) @ z)


def test_a_length_that_fits_neither_product_is_refused():
    bit0, bit1 = planes_of(np.zeros((5, 20), np.int8))
    with pytest.raises(
        ValueError, match=r"weights of \[5, 17\.\.24\] take a length of 17\.\.24 for W @ x or 5 for x @ W, found 7"
    ):
        RotorCore.matvec(bit0, bit1, np.zeros(7, np.int8))
    with pytest.raises(ValueError, match=r"take a length of 20 for W @ x, found 5"):
        RotorCore.matvec(bit0, bit1, np.zeros(5, np.int8), n=20, transpose=False)
    with pytest.raises(ValueError, match=r"take a length of 5 for x @ W, found 20"):
        RotorCore.pack(bit0, bit1, 20).matvec(np.zeros(20, np.int8), transpose=True)
    with pytest.raises(ValueError, match=r"take \[20, k\] for W @ X or \[k, 5\] for X @ W, found \[3, 4\]"):
        RotorCore.matmul(bit0, bit1, np.zeros((3, 4), np.int8), n=20)
    with pytest.raises(ValueError, match="see matmul"):
        RotorCore.matvec(bit0, bit1, np.zeros((20, 1), np.int8))
    with pytest.raises(ValueError, match="see matvec"):
        RotorCore.matmul(bit0, bit1, np.zeros(20, np.int8))


def test_activations_of_another_type_are_refused():
    bit0, bit1 = planes_of(np.zeros((5, 20), np.int8))
    for dtype in (np.float32, np.int32, np.uint8, ">i2"):
        with pytest.raises(TypeError, match="x: expected an array of int8"):
            RotorCore.matvec(bit0, bit1, np.zeros(20, dtype))
    with pytest.raises(TypeError, match="bit1: expected an array of uint8, found int8"):
        RotorCore.matvec(bit0, bit1.view(np.int8), np.zeros(20, np.int8))


def test_nothing_times_something_is_nothing():
    empty = np.zeros((0, 2), np.uint8)
    assert RotorCore.matvec(empty, empty, np.zeros(16, np.int8)).tolist() == []
    assert RotorCore.matvec(empty, empty, np.zeros(0, np.int8)).tolist() == [0] * 16
    narrow = np.zeros((3, 0), np.uint8)
    assert RotorCore.matvec(narrow, narrow, np.zeros(0, np.int8)).tolist() == [0] * 3
    assert RotorCore.pack(narrow, narrow).matvec(np.zeros(0, np.int8)).tolist() == [0] * 3
    bit0, bit1 = planes_of(np.ones((3, 8), np.int8))
    assert RotorCore.matmul(bit0, bit1, np.zeros((8, 0), np.int8)).shape == (3, 0)


def test_a_weight_in_both_planes_raises_or_counts_as_zero():
    both = np.array([[0b11, 0], [0, 0b100]], np.uint8)
    one = np.array([[0b01, 0], [0, 0b101]], np.uint8)
    x = np.arange(1, 17, dtype=np.int8)
    message = r"2 invalid, the first at index \[0, 0\] \(set in both planes\)"
    for call in (
        lambda **strict: RotorCore.matvec(both, one, x, **strict),
        lambda **strict: RotorCore.matmul(both, one, np.stack([x] * 5, axis=1), **strict)[:, 0],
        lambda **strict: RotorCore.pack(both, one, **strict).matvec(x),
        lambda **strict: RotorCore.matvec(both, one, np.ones(2, np.int8), **strict),
    ):
        with pytest.raises(ValueError, match=message):
            call()
        with pytest.warns(UserWarning, match=message):
            found = call(strict=False)
        # Weight [0, 1] is +1 and [1, 8] is -1.
        if len(found) == 2:
            assert found.tolist() == [2, -9]
        else:
            assert found.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0]


def test_bits_beyond_the_last_column_are_refused():
    bit0, bit1 = np.array([[0, 0x80]], np.uint8), np.zeros((1, 2), np.uint8)
    with pytest.raises(
        ValueError, match=r"bits beyond the last column must be 0: 1 invalid, the first at index \[0, 15\]"
    ):
        RotorCore.matvec(bit0, bit1, np.ones(12, np.int8))
    with pytest.raises(ValueError, match="bits beyond the last column"):
        RotorCore.pack(bit0, bit1, 12)
    assert RotorCore.check_errors(bit0, bit1, 12) == 1
    assert RotorCore.check_errors(bit0, bit1) == 0


def test_check_errors_counts_weights_in_both_planes():
    bit0, bit1 = planes_of(np.ones((4, 9), np.int8))
    assert RotorCore.check_errors(bit0, bit1) == 0
    bit1[2, 0] = 0b101
    assert RotorCore.check_errors(bit0, bit1) == 2


def test_negate_exchanges_the_planes():
    values = synth.create_bitnet_layer(9, 21)
    bit0, bit1 = planes_of(values)
    negative = RotorCore.negate(bit0, bit1)
    assert negative[0] is bit1 and negative[1] is bit0
    assert np.array_equal(RotorCore.decode(*negative, 21), -values)


def test_dot_is_one_row():
    values = synth.create_bitnet_layer(1, 1000)[0]
    x = np.random.default_rng(5).integers(-128, 128, 1000, dtype=np.int8)
    found = RotorCore.dot(*planes_of(values), x)
    assert type(found) is int and found == int(values.astype(np.int32) @ x)
    with pytest.raises(ValueError, match="planes of one row"):
        RotorCore.dot(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), x)


def test_a_packed_matrix_tells_its_shape_and_size():
    packed = RotorCore.pack(*planes_of(synth.create_bitnet_layer(64, 256)))
    once = packed.nbytes
    # The kernels of different machines keep a weight in different numbers of bits, and pad differently.
    assert packed.shape == (64, 256) and 64 * 256 // 8 < once < 64 * 256 // 2
    assert repr(packed) == f"PackedMatrix(shape=(64, 256), nbytes={once})"
    packed.matvec(np.zeros(64, np.int8))
    assert once < packed.nbytes < 4 * once


def test_methods_work_on_the_class_and_on_an_instance():
    bit0, bit1 = RotorCore().encode(np.array([[1, -1]], np.int8))
    assert RotorCore().matvec(bit0, bit1, np.array([3, 5], np.int8)).tolist() == [-2]
