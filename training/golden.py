"""Greedy continuations by transformers that any correct engine must repeat.

An engine may add floats in another order, so a step where two tokens are nearly
level proves nothing. A continuation is taken only if at each of its 64 steps the
best token leads the second by more than 2e-2 of the largest |logit|. A small model
is rarely that sure for long, so many prompts are continued at once, well past 64
tokens: where a stretch of 64 clear steps turns up, all that came before it becomes
the prompt. Of those the most varied are kept, since a model that repeats itself
tests little. Half the prompts say something several times over and begin it again,
which makes for long prompts as well as short ones.

The packed folder is what the GGUF holds, value for value, and transformers runs
it in float32.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from corpus import DEFAULT_WORK
from export import transformers_model

MARGIN = 2e-2
STEPS = 64
PROMPTS = 10
SEARCH_STEPS = 160
OPENING = 8
REPEATED = 24
REPEATS = 6
BATCH = 64


@torch.no_grad()
def greedy(model: PreTrainedModel, prompts: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Best tokens after each prompt and whether each was clear of the second, [prompts, steps]."""
    given, cache, chosen, clear = prompts, None, [], []
    for _ in range(steps):
        output = model(given, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, output.logits[:, -1]
        best = logits.topk(2)
        chosen.append(best.indices[:, 0])
        clear.append(best.values[:, 0] - best.values[:, 1] > MARGIN * logits.abs().amax(-1))
        given = best.indices[:, :1]
    return torch.stack(chosen, 1), torch.stack(clear, 1)


def candidates(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Tensor]:
    """Batches of prompts of one length: openings of paragraphs, plain and after repetitions."""
    plain, repeated = [], []
    for paragraph in text.split("\n\n"):
        ids = tokenizer(paragraph).input_ids
        if len(ids) > REPEATED:
            plain.append(ids[:OPENING])
            repeated.append(ids[:1] + ids[1:REPEATED] * REPEATS + ids[1:OPENING])
    pairs = zip(torch.tensor(plain).split(BATCH), torch.tensor(repeated).split(BATCH))
    return [batch for pair in pairs for batch in pair]


def first_clear_run(clear: list[bool]) -> int | None:
    """Where the first STEPS clear steps in a row begin."""
    length = 0
    for step, good in enumerate(clear):
        length = length + 1 if good else 0
        if length == STEPS:
            return step + 1 - STEPS
    return None


def entry(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> dict[str, object] | None:
    """The continuation of a prompt computed afresh, if it holds and the prompt survives as text."""
    chosen, clear = greedy(model, torch.tensor([ids]), STEPS)
    prompt = tokenizer.decode(ids[1:])
    whole = clear.all() and not (chosen == tokenizer.eos_token_id).any()
    if not whole or tokenizer(prompt).input_ids != ids:
        return None
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "ids": chosen[0].tolist(),
        "text": tokenizer.decode(chosen[0]),
    }


def search(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> list[dict[str, object]]:
    """The most varied continuations, no two in the same words."""
    found: dict[frozenset[int], dict[str, object]] = {}
    for prompts in candidates(tokenizer, text):
        chosen, clear = greedy(model, prompts, SEARCH_STEPS)
        for prompt, tokens, good in zip(prompts.tolist(), chosen.tolist(), clear.tolist()):
            start = first_clear_run(good)
            words = frozenset(tokens[start : start + STEPS]) if start is not None else None
            if words and words not in found:
                result = entry(model, tokenizer, prompt + tokens[:start])
                if result:
                    found[words] = result
    return sorted(found.values(), key=lambda result: -len(set(result["ids"])))[:PROMPTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models/golden.json")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.work / "export/packed"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = search(transformers_model(folder), tokenizer, (args.work / "corpus/heldout.txt").read_text())
    for result in found:
        print(len(set(result["ids"])), json.dumps(result["prompt"]), "->", json.dumps(result["text"]))
    if len(found) < PROMPTS:
        raise SystemExit(f"only {len(found)} of {PROMPTS} prompts found")
    lines = ",\n".join(json.dumps(result, ensure_ascii=False) for result in found)
    args.out.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
