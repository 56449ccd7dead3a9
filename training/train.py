"""Quantisation-aware training in two stages.

Stage one: warm-up, then a high learning rate that falls slowly, weight decay on.
Stage two, from the middle: a lower learning rate that falls to nothing, weight
decay off. This is what the BitNet papers advise: decay keeps the masters moving
between trits early on, and removing it lets them settle. Stage two also doubles
the window, since long windows cost more and teach less at the start.

Every window starts with BOS, because that is how a prompt and a chunk of the
perplexity protocol start. Stopping at any moment loses at most --save steps:
run the same command again to go on.

Reads WORK/corpus and WORK/tokenizer.json; writes WORK/checkpoint.pt, WORK/log.jsonl
and WORK/train.pid.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from corpus import DEFAULT_WORK
from model import Config, Model
from tokenizer import BOS, EOS, texts

STEP_TOKENS = 2048
WINDOWS = (256, 512)  # per stage
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
CLIP = 1.0


def schedule(step: int, steps: int, warm_up: int) -> tuple[float, float]:
    """Learning-rate factor and weight decay of a step."""
    half = steps // 2
    if step < warm_up:
        return (step + 1) / warm_up, WEIGHT_DECAY
    if step < half:
        return 1.0 - 0.3 * step / half, WEIGHT_DECAY
    return 0.5 * (steps - step) / (steps - half), 0.0


def token_stream(work: Path, tokenizer: Tokenizer) -> Tensor:
    """All training documents as ids, each closed by EOS; cached, as encoding is slow."""
    cache = work / "train.npy"
    if not cache.exists():
        eos = tokenizer.token_to_id(EOS)
        documents = tokenizer.encode_batch(list(texts(work / "corpus/train.jsonl")), add_special_tokens=False)
        np.save(cache, np.concatenate([[*d.ids, eos] for d in documents]).astype(np.int32))
    return torch.from_numpy(np.load(cache)).long()


def windows(stream: Tensor, starts: Tensor, length: int, bos: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the windows at some offsets: BOS takes the place before the first token."""
    targets = stream[starts[:, None] + torch.arange(length)]
    inputs = torch.cat((torch.full((len(starts), 1), bos), targets[:, :-1]), dim=1)
    return inputs, targets


def batches(stream: Tensor, length: int, seed: int) -> Iterator[Tensor]:
    """Endless window offsets: each epoch is a new cut of the stream in a new order."""
    generator = torch.Generator().manual_seed(seed)
    size = STEP_TOKENS // length
    while True:
        offset = int(torch.randint(length, (1,), generator=generator))
        starts = torch.arange(offset, len(stream) - length, length)
        order = torch.randperm(len(starts), generator=generator)
        yield from starts[order[: len(order) // size * size]].view(-1, size)


def optimizer_of(model: Model, rate: float) -> torch.optim.AdamW:
    """AdamW that decays the ternary matrices only: norms and embedding are not quantised."""
    ternary = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    dense = [p for n, p in model.named_parameters() if not n.endswith("_proj.weight")]
    groups = [{"params": ternary, "decays": True}, {"params": dense, "decays": False}]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, weight_decay=0.0, fused=True)


def loss_of(model: Model, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats a token."""
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def held_out_loss(model: Model, ids: Tensor, bos: int) -> float:
    """Loss on a few fixed windows, for the curve only: nothing is chosen by it."""
    starts = torch.arange(16) * ((len(ids) - WINDOWS[1]) // 16)
    inputs, targets = windows(ids, starts, WINDOWS[1], bos)
    return float(np.mean([loss_of(model, i, t).item() for i, t in zip(inputs.split(4), targets.split(4))]))


class Run:
    """A training run and all its state, so that saving and resuming are one place."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.step = 0
        self.seconds = 0.0
        torch.manual_seed(args.seed)
        self.model = Model(Config(layers=args.layers, feed_forward=args.feed_forward))
        self.optimizer = optimizer_of(self.model, args.rate)
        self.path = args.work / "checkpoint.pt"
        self.log = (args.work / "log.jsonl").open("a")
        if self.path.exists():
            self.load()

    def load(self) -> None:
        state = torch.load(self.path)
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        """Replace the checkpoint in one move: a crash must not leave half a file."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "config": asdict(self.model.config),
            "arguments": {k: str(v) for k, v in vars(self.args).items()},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)

    def update(self, loss: Callable[..., Tensor], inputs: Tensor, targets: Tensor) -> float:
        """One optimizer step."""
        factor, decay = schedule(self.step, self.args.steps, self.args.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.rate * factor
            group["weight_decay"] = decay if group["decays"] else 0.0
        value = loss(self.model, inputs, targets)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return value.item()

    def record(self, **entry: float) -> None:
        entry = {"step": self.step, "tokens": self.step * STEP_TOKENS, "seconds": round(self.seconds, 1), **entry}
        self.log.write(json.dumps(entry) + "\n")
        self.log.flush()

    def stage(self, number: int, stream: Tensor, held_out: Tensor, bos: int) -> None:
        """Train to the end of a stage, or to args.stop."""
        half = self.args.steps // 2
        first, last = (0, half) if number == 0 else (half, self.args.steps)
        source = batches(stream, WINDOWS[number], self.args.seed + number)
        for _ in range(self.step - first):
            next(source)
        loss = torch.compile(loss_of, dynamic=False)
        recent: list[float] = []
        while self.step < min(last, self.args.stop or last):
            started = time.monotonic()
            recent.append(self.update(loss, *windows(stream, next(source), WINDOWS[number], bos)))
            self.seconds += time.monotonic() - started
            if self.step % 20 == 0:
                self.record(loss=float(np.mean(recent)), rate=self.optimizer.param_groups[0]["lr"])
                recent.clear()
            if self.step % self.args.save == 0 or self.step == last:
                self.record(held_out=held_out_loss(self.model, held_out, bos))
                self.save()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2900)
    parser.add_argument("--stop", type=int, default=0, help="end early, for trying a setting")
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--warm-up", type=int, default=150)
    parser.add_argument("--save", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    (args.work / "train.pid").write_text(f"{os.getpid()}\n")
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    bos = tokenizer.token_to_id(BOS)
    stream = token_stream(args.work, tokenizer)
    held_out = torch.tensor(tokenizer.encode((args.work / "corpus/heldout.txt").read_text()).ids[1:])
    run = Run(args)
    for number in range(2):
        run.stage(number, stream, held_out, bos)


if __name__ == "__main__":
    main()
