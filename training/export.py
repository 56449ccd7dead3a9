"""Write a checkpoint as two Hugging Face folders that transformers loads.

WORK/export/master: float32 masters, quantised on load (`online`).
WORK/export/packed: trits four to a byte and one scale a matrix (`offline`), the
form `rotor convert` reads. Its trits and scales come from the very function the
training forward uses, and the embedding is rounded to F16 in both forms, since
that is what the GGUF holds.

Also checks that transformers, given either folder, computes the logits of the
training code.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitNetConfig, GenerationConfig, PreTrainedModel

from corpus import DEFAULT_WORK
from model import Config, Model, ternary
from tokenizer import BOS, EOS

TOLERANCE = 1e-4  # of the largest logit
# The model was not trained to chat: it goes on with what was said, paragraph by paragraph.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{% if message.role != 'user' and not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
)
CARD = """---
language: en
license: apache-2.0
library_name: transformers
model_name: rotor-tiny
tags: [bitnet, ternary]
---

# rotor-tiny, {form}

A {millions:.1f}-million-parameter ternary language model trained on public-domain English prose.
Also under the MIT licence, at your choice.
What it can and cannot do, and how it was made: `models/rotor-tiny.md` in rotor's repository.
transformers keeps an F16 embedding in F16: call `model.get_input_embeddings().float()` after loading.
"""


def load(checkpoint: Path) -> Model:
    """The trained model with its embedding in the precision it ships with."""
    state = torch.load(checkpoint)
    model = Model(replace(Config(), **state["config"]))
    model.load_state_dict(state["model"])
    with torch.no_grad():
        weight = model.embed_tokens.weight
        weight.copy_(weight.half())
    return model.eval()


def hf_config(config: Config, tokenizer: Tokenizer, mode: str) -> BitNetConfig:
    """The configuration both forms share but for the quantisation mode."""
    return BitNetConfig(
        architectures=["BitNetForCausalLM"],
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        hidden_act="relu2",
        max_position_embeddings=config.context,
        rms_norm_eps=config.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.theta},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(EOS),
        quantization_config={
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": mode,
            "modules_to_not_convert": ["lm_head"],
        },
    )


def pack(trits: Tensor) -> Tensor:
    """Four rows, a quarter of the matrix apart, in the bit pairs of one byte."""
    quarters = (trits + 1).to(torch.uint8).chunk(4, dim=0)
    return sum(quarter << (2 * slot) for slot, quarter in enumerate(quarters))


def master_tensors(model: Model) -> dict[str, Tensor]:
    """Everything in float32 under transformers' names."""
    return {f"model.{name}": tensor.detach().clone() for name, tensor in model.named_parameters()}


def packed_tensors(model: Model) -> dict[str, Tensor]:
    """The same with every linear as packed trits and its scale."""
    tensors = {}
    for name, tensor in master_tensors(model).items():
        if name.endswith("_proj.weight"):
            trits, inverse = ternary(tensor)
            tensors[name] = pack(trits)
            tensors[f"{name}_scale"] = (1.0 / inverse).reshape(1)
        else:
            tensors[name] = tensor.half() if "embed_tokens" in name else tensor
    return tensors


def tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, object]:
    """What AutoTokenizer needs beside tokenizer.json."""
    specials = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False,
            "rstrip": False, "single_word": False, "special": True,
        }
        for token in (BOS, EOS)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": specials,
        "bos_token": BOS,
        "eos_token": EOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
    }


def write(folder: Path, model: Model, tokenizer: Tokenizer, mode: str) -> None:
    """One complete folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = master_tensors(model) if mode == "online" else packed_tensors(model)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = hf_config(model.config, tokenizer, mode)
    config.dtype = "float32"
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    (folder / "README.md").write_text(CARD.format(form=folder.name, millions=millions))
    settings = tokenizer_config(tokenizer, model.config.context)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def transformers_model(folder: Path) -> PreTrainedModel:
    """A folder as transformers runs it, in float32.

    transformers leaves the F16 embedding of a packed checkpoint in F16 whatever
    dtype is asked for, and then cannot multiply by it: widening it is exact.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.get_input_embeddings().float()
    return model.eval()


@torch.no_grad()
def check(folder: Path, model: Model, text: str) -> None:
    """Compare transformers' logits on a text with the training code's."""
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids[:, : model.config.context]
    reference = model(ids)
    other = transformers_model(folder)(ids).logits
    difference = ((other - reference).abs().amax(-1) / reference.abs().amax()).flatten()
    agree = (other.argmax(-1) == reference.argmax(-1)).float().mean().item()
    print(
        f"{folder.name}: {len(difference)} positions, largest difference {difference.max():.1e} of the largest logit,"
        f" median {difference.median():.1e}, {(difference <= TOLERANCE).float().mean():.1%} within {TOLERANCE:g},"
        f" same best token at {agree:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load(args.work / "checkpoint.pt")
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    text = (args.work / "corpus/heldout.txt").read_text()[:20000]
    for name, mode in (("master", "online"), ("packed", "offline")):
        write(args.work / "export" / name, model, tokenizer, mode)
        check(args.work / "export" / name, model, text)


if __name__ == "__main__":
    main()
