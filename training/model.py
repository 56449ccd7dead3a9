"""The bitnet-b1.58 graph, with the quantisers in the forward pass.

The point of training through the quantisers is that nothing is lost at export:
what the loss saw is what the file holds. Parameter names are those of
transformers' BitNetForCausalLM, so that exporting is a matter of packing.
Shapes in comments: B batch, T tokens, D hidden, F feed-forward, H heads, d head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TINIEST = 1e-5  # floor of both quantisers' magnitudes, as published


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; every matrix has columns divisible by 128 (I2_S blocks)."""

    vocabulary: int = 3072
    hidden: int = 256
    feed_forward: int = 640
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    context: int = 512
    theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Trits and their scale: absmean over the whole matrix."""
    inverse = 1.0 / weight.abs().mean().clamp(min=TINIEST)
    return (weight * inverse).round().clamp(-1, 1), inverse


class TernaryWeight(torch.autograd.Function):
    """The ternarised matrix forward, the identity backward (straight-through)."""

    @staticmethod
    def forward(ctx, weight: Tensor) -> Tensor:
        trits, inverse = ternary(weight)
        return trits / inverse

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class Int8Activation(torch.autograd.Function):
    """Per-token absmax int8, dequantised, forward; the identity backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=TINIEST)
        return (x * scale).round().clamp(-128, 127) / scale

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class BitLinear(nn.Linear):
    """A ternary matrix; the caller quantises the input, since several share one."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__(columns, rows, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, TernaryWeight.apply(self.weight))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a gain."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, NEOX pairing: dimension i turns with i + d/2."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention with a norm before the output projection."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        kv = config.kv_heads * config.head_dim
        self.q_proj = BitLinear(config.hidden, config.hidden)
        self.k_proj = BitLinear(config.hidden, kv)
        self.v_proj = BitLinear(config.hidden, kv)
        self.o_proj = BitLinear(config.hidden, config.hidden)
        self.attn_sub_norm = RMSNorm(config.hidden, config.epsilon)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, H*d] to [B, H, T, d]."""
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = Int8Activation.apply(x)
        q = rotate(self.split(self.q_proj(x)), cos, sin)
        k = rotate(self.split(self.k_proj(x)), cos, sin)
        v = self.split(self.v_proj(x))
        group = self.config.heads // self.config.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        a = self.attn_sub_norm(a.transpose(1, 2).flatten(2))
        return self.o_proj(Int8Activation.apply(a))


class FeedForward(nn.Module):
    """Squared ReLU gate with a norm before the down projection."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = BitLinear(config.hidden, config.feed_forward)
        self.up_proj = BitLinear(config.hidden, config.feed_forward)
        self.down_proj = BitLinear(config.feed_forward, config.hidden)
        self.ffn_sub_norm = RMSNorm(config.feed_forward, config.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        x = Int8Activation.apply(x)
        f = F.relu(self.gate_proj(x)).square() * self.up_proj(x)
        return self.down_proj(Int8Activation.apply(self.ffn_sub_norm(f)))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden, config.epsilon)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.epsilon)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Token ids to logits, the embedding serving as the output matrix too."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.epsilon)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        dims = torch.arange(0, config.head_dim, 2, dtype=torch.float)
        turns = torch.outer(
            torch.arange(config.context, dtype=torch.float), 1.0 / config.theta ** (dims / config.head_dim)
        )
        angles = torch.cat((turns, turns), dim=-1)  # [T, d]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.embed_tokens(ids)  # [B, T, D]
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        return F.linear(self.norm(x), self.embed_tokens.weight)  # [B, T, vocabulary]
