"""What the tests share. They need an installed ``rotor`` and numpy; whatever else they need they skip without, by name."""

from pathlib import Path

import numpy as np
import pytest

import rotor

REPOSITORY = Path(__file__).parents[3]
HF_TINY = REPOSITORY / "crates" / "rotor-engine" / "tests" / "data" / "hf-tiny"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic GGUF of 1.5 MB."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    rotor.synth.create_model("tiny", path)
    return path


@pytest.fixture
def model(tiny: Path):
    with rotor.Model.load(tiny) as model:
        yield model


def shapes(rng: np.random.Generator, count: int):
    """Random shapes, odd ones and empty ones, of one and two dimensions."""
    yield from [(0,), (1,), (7,), (8,), (0, 5), (5, 0), (1, 1), (3, 4097)]
    for _ in range(count):
        yield tuple(int(n) for n in rng.integers(1, 70, size=rng.integers(1, 3)))


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-1, 2, size=shape, dtype=np.int8)


def variants(array: np.ndarray):
    """The same array laid out in other ways."""
    yield array
    read_only = array.copy()
    read_only.flags.writeable = False
    yield read_only
    spread = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    spread[tuple(slice(None, None, 2) for _ in array.shape)] = array
    yield spread[tuple(slice(None, None, 2) for _ in array.shape)]
    yield array[..., ::-1].copy()[..., ::-1]
    if array.ndim == 2:
        yield np.asfortranarray(array)
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    shifted = buffer[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)
    shifted[...] = array
    yield shifted
