"""Bits per byte on the held-out text: the model against two that know nothing of language.

* `xz -9e`: how much longer the compressed training text gets when the held-out
  text is appended.
* An interpolated 5-gram character model of the training text (Witten-Bell
  smoothing down to a uniform distribution over bytes).
* Ours: every byte is scored once. The ids are cut into pieces of half a context;
  a piece is predicted from BOS and as much text before it as the context holds.
"""

import argparse
import lzma
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer

from corpus import DEFAULT_WORK
from export import load
from model import Model
from tokenizer import BOS

ORDER = 5
Codes = NDArray[np.uint64]


def xz_bits(train: bytes, held_out: bytes) -> float:
    """What appending the held-out text costs `xz -9e`, in bits a byte."""

    def size(data: bytes) -> int:
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))

    return 8 * (size(train + held_out) - size(train)) / len(held_out)


def grams(text: NDArray[np.uint8], order: int) -> Codes:
    """Every run of `order` bytes as one number; the start is padded with zero bytes."""
    padded = np.concatenate([np.zeros(order - 1, np.uint8), text]).astype(np.uint64)
    codes = np.zeros(len(text), np.uint64)
    for back in range(order):
        codes = codes << np.uint64(8) | padded[back : back + len(text)]
    return codes


def look_up(keys: Codes, values: NDArray[np.int64], wanted: Codes) -> NDArray[np.int64]:
    """Values of sorted keys, 0 where a key is missing."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def ngram_bits(train: bytes, held_out: bytes) -> float:
    """Witten-Bell: p(c|h) = (count(hc) + kinds(h) p(c|shorter h)) / (count(h) + kinds(h))."""
    text, other = (np.frombuffer(t, np.uint8) for t in (train, held_out))
    probability = np.full(len(other), 1 / 256)
    for order in range(1, ORDER + 1):
        keys, counts = np.unique(grams(text, order), return_counts=True)
        histories, starts = np.unique(keys >> np.uint64(8), return_index=True)
        totals = np.add.reduceat(counts, starts)
        kinds = np.diff(np.append(starts, len(keys)))
        wanted = grams(other, order)
        history = wanted >> np.uint64(8)
        seen = look_up(keys, counts, wanted)
        total, kind = look_up(histories, totals, history), look_up(histories, kinds, history)
        mixed = (seen + kind * probability) / np.maximum(total + kind, 1)
        probability = np.where(total > 0, mixed, probability)
    return float(-np.log2(probability).sum() / len(other))


@torch.no_grad()
def model_bits(model: Model, ids: list[int], bos: int, size: int) -> float:
    """Every id scored once, each with at least half a context before it where there is one."""
    context, piece = model.config.context, model.config.context // 2
    nats = 0.0
    for start in range(0, len(ids), piece):
        before = ids[max(0, start - (context - piece) + 1) : start] if start else []
        target = ids[start : start + piece]
        inputs = torch.tensor([[bos, *before, *target[:-1]]])
        logits = model(inputs)[0, len(before) :].double()
        nats += F.cross_entropy(logits, torch.tensor(target), reduction="sum").item()
    return nats / math.log(2) / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, held_out = ((args.work / "corpus" / name).read_bytes() for name in ("train.txt", "heldout.txt"))
    print(f"held-out text: {len(held_out)} bytes")
    print(f"xz -9e: {xz_bits(train, held_out):.4f} bits per byte", flush=True)
    print(f"{ORDER}-gram characters: {ngram_bits(train, held_out):.4f} bits per byte", flush=True)

    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    ids = tokenizer.encode(held_out.decode(), add_special_tokens=False).ids
    bits = model_bits(load(args.work / "checkpoint.pt"), ids, tokenizer.token_to_id(BOS), len(held_out))
    print(f"this model: {bits:.4f} bits per byte")


if __name__ == "__main__":
    main()
