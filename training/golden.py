"""Greedy continuations by transformers that any correct engine must repeat.

An engine may add floats in another order, so a step where two tokens are nearly
level proves nothing. A prompt is taken only if at every step the best token leads
the second by more than 2e-2 of the largest |logit|. Where a candidate stumbles,
its own continuation past that step becomes part of the prompt and it tries again,
so the search needs few candidates. The packed folder is what the GGUF holds, value
for value, and transformers runs it in float32.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from corpus import DEFAULT_WORK
from export import transformers_model

MARGIN = 2e-2
STEPS = 64
LONGEST_PROMPT = 160
PROMPTS = 10


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: list[int]) -> tuple[list[int], int | None]:
    """Best tokens, and the first step at which the best leads by too little."""
    given, cache, chosen = torch.tensor([ids]), None, []
    for step in range(STEPS):
        output = model(given, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[0, -1]
        best = logits.topk(2)
        chosen.append(int(best.indices[0]))
        if best.values[0] - best.values[1] <= MARGIN * logits.abs().max():
            return chosen, step
        given = best.indices[:1].view(1, 1)
    return chosen, None


def settle(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> dict[str, object] | None:
    """The prompt, grown by its own continuation until 64 steps in a row are clear."""
    eos = tokenizer.eos_token_id
    ids = tokenizer(prompt).input_ids
    while len(ids) <= LONGEST_PROMPT:
        chosen, stumble = greedy(model, ids)
        if eos in chosen:
            return None
        if stumble is None:
            prompt = tokenizer.decode(ids[1:])
            same = tokenizer(prompt).input_ids == ids
            text = tokenizer.decode(chosen)
            return {"prompt": prompt, "prompt_ids": ids, "ids": chosen, "text": text} if same else None
        ids = ids + chosen
    return None


def candidates(text: str) -> list[str]:
    """Openings of paragraphs, cut after a few words."""
    openings = []
    for number, paragraph in enumerate(text.split("\n\n")):
        words = re.findall(r"\S+", paragraph)
        if len(words) > 12:
            openings.append(" ".join(words[: 4 + number % 6]))
    return openings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models/golden.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.work / "export/packed"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = transformers_model(folder)

    found: list[dict[str, object]] = []
    endings: set[str] = set()
    for prompt in candidates((args.work / "corpus/heldout.txt").read_text()):
        result = settle(model, tokenizer, prompt)
        if result and result["text"][-60:] not in endings:
            endings.add(result["text"][-60:])
            found.append(result)
            print(len(found), json.dumps(result["prompt"]), "->", json.dumps(result["text"]), flush=True)
        if len(found) == PROMPTS:
            break
    else:
        raise SystemExit(f"only {len(found)} of {PROMPTS} prompts found")
    args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
