"""Held-out perplexity by rotor's chunk protocol, from two implementations.

The protocol is llama.cpp's: the whole text is encoded at once, cut into chunks of
`--ctx` ids (a last partial one is dropped), the first id of each chunk is replaced
by BOS, and only the predictions made from the second half of a chunk count:
position i, from ctx/2 to ctx-2, scores id i+1. The error is llama.cpp's too.

The ids are written to WORK/heldout.ids (one line, as `rotor tokenize --ids`
prints them), so that every engine can be shown to score the same thing.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from corpus import DEFAULT_WORK
from export import load, transformers_model
from tokenizer import BOS

Logits = Callable[[Tensor], Tensor]


def chunks_of(ids: list[int], context: int, bos: int) -> Tensor:
    """Whole chunks with BOS in front, [chunks, context]."""
    count = len(ids) // context
    chunks = torch.tensor(ids[: count * context]).view(count, context)
    chunks[:, 0] = bos
    return chunks


@torch.no_grad()
def negative_log_likelihoods(logits: Logits, chunks: Tensor) -> Tensor:
    """Of every scored id, in nats and float64."""
    first = chunks.shape[1] // 2
    values = []
    for chunk in chunks.split(4):
        scores = logits(chunk)[:, first:-1].double()
        values.append(F.cross_entropy(scores.flatten(0, 1), chunk[:, first + 1 :].flatten(), reduction="none"))
    return torch.cat(values)


def perplexity(values: Tensor) -> tuple[float, float]:
    """Perplexity and its standard error."""
    mean = values.mean().item()
    variance = values.square().mean().item() - mean * mean
    return math.exp(mean), math.exp(mean) * math.sqrt(variance / (len(values) - 1))


def transformers_logits(folder: Path) -> Logits:
    """The exported model, as transformers runs it."""
    model = transformers_model(folder)
    return lambda ids: model(ids, use_cache=False).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    ids = tokenizer.encode((args.work / "corpus/heldout.txt").read_text()).ids
    (args.work / "heldout.ids").write_text(" ".join(map(str, ids)) + "\n")
    chunks = chunks_of(ids, args.ctx, tokenizer.token_to_id(BOS))
    print(f"{len(ids)} ids, {len(chunks)} chunks of {args.ctx}")

    engines = {
        "training code": load(args.work / "checkpoint.pt"),
        "transformers, masters": transformers_logits(args.work / "export/master"),
        "transformers, packed": transformers_logits(args.work / "export/packed"),
    }
    for name, logits in engines.items():
        value, error = perplexity(negative_log_likelihoods(logits, chunks))
        print(f"{name}: perplexity = {value:.4f} ± {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
