"""Texts per second as vectors, by rotor and by transformers on the float twin of the same model.

Usage: bench_embed.py ROTOR MODEL.gguf [--tokens 32,128,512] [--each 4096] [--rounds 3] [--threads 2]
                      [--dtype float32,bfloat16] [--batch 1024,4096]
    pip install numpy safetensors torch transformers
    cargo build --release --bin rotor
    target/release/rotor synth bitnet-embedding-270m /tmp/270m.gguf
    python3 dev/bench_embed.py target/release/rotor /tmp/270m.gguf

MODEL is a BitNet embedding model, on Qwen 3 or Gemma 3. Its float twin is what transformers would run if it knew
these models: its own Qwen3Model or Gemma3TextModel, every linear with the RMS norm that these models have in front of
it and the ternary weights as floats; activations are not quantised, which only saves the twin work. The weights come
from `rotor convert --type rotor`, so both have the same. That both compute the same function is checked first:
vectors by `rotor embed --activations exact` against the twin's in float32.

All take turns, round by round; figures are medians. Texts of a length are random ids, as many as make `--each` tokens
in all, the same for both, so that neither pads anything. rotor is one process a round, timed by itself from when its
model is loaded (the time it reports with `-o`). The twin is timed over whole batches after one batch that warms up,
at each batch size of `--batch`, in tokens; the fastest counts.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from transformers import Gemma3TextConfig, Gemma3TextModel, PretrainedConfig, PreTrainedModel, Qwen3Config, Qwen3Model

Texts = list[list[int]]

# A linear's name in a GGUF and in transformers.
LINEARS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMS = {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
}
QWEN_NORMS = NORMS | {"ffn_norm": "post_attention_layernorm"}
GEMMA_NORMS = NORMS | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


class NormedLinear(nn.Module):
    """A linear with an RMS norm of its own, as BitNet embedding models have them, without the quantiser."""

    def __init__(self, weight: torch.Tensor, norm: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.norm = nn.Parameter(norm, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(functional.rms_norm(x, self.norm.shape, self.norm, 1e-6), self.weight)


class Planes:
    """A file that `rotor convert --type rotor` wrote."""

    def __init__(self, path: Path) -> None:
        self.file = safe_open(path, framework="np")
        pairs = json.loads(self.file.metadata()["rotor.gguf"])
        self.keys = {key: next(iter(value.values())) for key, value in pairs.items()}
        self.architecture: str = self.keys["general.architecture"]

    def key(self, name: str) -> int | float:
        return self.keys[f"{self.architecture}.{name}"]

    def dense(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.file.get_tensor(f"{name}.weight").astype(np.float32))

    def ternary(self, name: str) -> torch.Tensor:
        """`(bit0 - bit1) * scale`, `[rows, columns]`."""
        plus, minus = (self.file.get_tensor(f"{name}.bit{bit}") for bit in (0, 1))
        columns = self.dense(f"{name}_norm_in").numel()
        trits = [
            np.unpackbits(plane, axis=1, bitorder="little")[:, :columns].astype(np.int8) for plane in (plus, minus)
        ]
        scale = self.file.get_tensor(f"{name}.scale")
        return torch.from_numpy((trits[0] - trits[1]).astype(np.float32) * scale.reshape(-1, 1))


def configuration(planes: Planes) -> PretrainedConfig:
    """The configuration that transformers gives such a model."""
    shape = {
        "vocab_size": planes.key("vocab_size"),
        "hidden_size": planes.key("embedding_length"),
        "intermediate_size": planes.key("feed_forward_length"),
        "num_hidden_layers": planes.key("block_count"),
        "num_attention_heads": planes.key("attention.head_count"),
        "num_key_value_heads": planes.key("attention.head_count_kv"),
        "head_dim": planes.key("attention.key_length"),
        "max_position_embeddings": planes.key("context_length"),
        "rms_norm_eps": planes.key("attention.layer_norm_rms_epsilon"),
    }
    rope = {"rope_type": "default", "rope_theta": planes.key("rope.freq_base")}
    if planes.architecture == "qwen3":
        return Qwen3Config(**shape, rope_parameters=rope)
    # Without a key of its own the model has no windows.
    kinds = {"full_attention": rope, "sliding_attention": rope}
    layers = ["full_attention"] * int(shape["num_hidden_layers"])
    scalar = shape["head_dim"]
    return Gemma3TextConfig(**shape, rope_parameters=kinds, layer_types=layers, query_pre_attn_scalar=scalar)


def float_twin(planes: Planes) -> PreTrainedModel:
    """The model with float weights, in float32."""
    gemma = planes.architecture == "gemma3"
    config = configuration(planes)
    with torch.device("meta"):
        model = (Gemma3TextModel if gemma else Qwen3Model)(config)
    # Only the vectors of rotations are computed rather than loaded.
    model.rotary_emb = type(model.rotary_emb)(config)
    # Gemma's norms multiply by 1 + w, and a GGUF holds the sum.
    less = 1.0 if gemma else 0.0
    for number in range(config.num_hidden_layers):
        layer = f"layers.{number}"
        for theirs, ours in LINEARS.items():
            name = f"blk.{number}.{theirs}"
            model.set_submodule(f"{layer}.{ours}", NormedLinear(planes.ternary(name), planes.dense(f"{name}_norm_in")))
        for theirs, ours in (GEMMA_NORMS if gemma else QWEN_NORMS).items():
            weight = planes.dense(f"blk.{number}.{theirs}") - less
            model.get_submodule(f"{layer}.{ours}").weight = nn.Parameter(weight, requires_grad=False)
    model.norm.weight = nn.Parameter(planes.dense("output_norm") - less, requires_grad=False)
    embedding = nn.Parameter(planes.dense("token_embd"), requires_grad=False)
    model.embed_tokens.weight = embedding
    if gemma:
        model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise SystemExit(f"the twin lacks {', '.join(left)}")
    return model.eval()


@torch.inference_mode()
def twin_vectors(model: PreTrainedModel, texts: Texts) -> torch.Tensor:
    """The mean of the hidden states, of length 1, `[texts, hidden]`; the texts are of one length."""
    hidden = model(input_ids=torch.tensor(texts), use_cache=False).last_hidden_state
    return functional.normalize(hidden.float().mean(dim=1), dim=-1)


def twin_rate(model: PreTrainedModel, texts: Texts, batch: int) -> float:
    """Texts a second."""
    parts = [texts[at : at + batch] for at in range(0, len(texts), batch)]
    twin_vectors(model, parts[0])
    began = time.perf_counter()
    for part in parts:
        twin_vectors(model, part)
    return len(texts) / (time.perf_counter() - began)


class Rotor:
    def __init__(self, program: str, model: str, threads: int, folder: Path) -> None:
        self.command = [program, "embed", model, "--pooling", "mean", "--threads", str(threads)]
        self.folder = folder

    def embed(self, texts: Texts, *options: str) -> tuple[np.ndarray, float]:
        """Vectors, and texts a second."""
        given, output = self.folder / "texts.json", self.folder / "vectors.npy"
        given.write_text(json.dumps(texts))
        command = [*self.command, str(given), "-o", str(output), *options]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        took = re.search(r"tokens in ([0-9.]+) s", told)
        if took is None:
            raise SystemExit(f"rotor embed told no time: {told}")
        return np.load(output), len(texts) / float(took[1])


def random_texts(vocab: int, tokens: int, count: int) -> Texts:
    chosen = random.Random(tokens)
    return [[chosen.randrange(vocab) for _ in range(tokens)] for _ in range(count)]


def check(rotor: Rotor, model: PreTrainedModel, vocab: int) -> None:
    """Both are the same function."""
    texts = random_texts(vocab, 48, 4)
    found, wanted = rotor.embed(texts, "--activations", "exact")[0], twin_vectors(model, texts).numpy()
    off = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    print(
        f"the twin in float32 and rotor with exact activations differ by {off:.1e} of the largest component", flush=True
    )
    if off > 1e-3:
        raise SystemExit("they are not the same model")
    cosines = (rotor.embed(texts)[0] * wanted).sum(axis=1)
    print(f"cosine of the twin's vectors and rotor's, int8 as trained: {cosines.min():.4f} at least", flush=True)


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    dtypes: list[str] = arguments.dtype.split(",")
    batches = [int(batch) for batch in arguments.batch.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        converted = folder / "planes.safetensors"
        convert = [arguments.rotor, "convert", "--type", "rotor", arguments.model, str(converted)]
        subprocess.run(convert, check=True, capture_output=True)
        planes = Planes(converted)
        rotor, twin = Rotor(arguments.rotor, arguments.model, arguments.threads, folder), float_twin(planes)
        vocab = int(planes.key("vocab_size"))
        check(rotor, twin, vocab)
        yield "| tokens | rotor | " + " | ".join(f"twin, {dtype} | ratio" for dtype in dtypes) + " |"
        yield "|---|---|" + "---|---|" * len(dtypes)
        twins = {
            dtype: twin if dtype == "float32" else float_twin(planes).to(getattr(torch, dtype)) for dtype in dtypes
        }
        for tokens in map(int, arguments.tokens.split(",")):
            texts = random_texts(vocab, tokens, max(arguments.each // tokens, 1))
            sizes = {max(batch // tokens, 1) for batch in batches}
            rates = [round_of(rotor, twins, texts, sizes) for _ in range(arguments.rounds)]
            yield told_of(tokens, rates)


def round_of(rotor: Rotor, twins: dict[str, PreTrainedModel], texts: Texts, sizes: set[int]) -> list[float]:
    """Texts a second by rotor, then by each twin."""
    fastest = [max(twin_rate(twin, texts, size) for size in sizes) for twin in twins.values()]
    return [rotor.embed(texts)[1], *fastest]


def told_of(tokens: int, rates: list[list[float]]) -> str:
    mine, *others = zip(*rates, strict=True)
    text = f"| {tokens} | {statistics.median(mine):.1f} |"
    for other in others:
        ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
        text += f" {statistics.median(other):.1f} | {ratio:.2f} |"
    return text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rotor")
    parser.add_argument("model")
    parser.add_argument("--tokens", default="32,128,512", help="tokens of a text, separated by commas")
    parser.add_argument("--each", type=int, default=4096, help="tokens of all texts of a length together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="float32,bfloat16", help="types of the twin's weights")
    parser.add_argument("--batch", default="1024,4096", help="tokens of a batch of the twin; the fastest counts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for row in rows(arguments):
        print(row, flush=True)


if __name__ == "__main__":
    main()
