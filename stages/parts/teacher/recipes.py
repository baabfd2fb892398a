"""Recipes: how a native ViT's dense tokens are taken from one standard forward pass (docs/teachers.md).

Each is one function of what the pass leaves (`ForwardPass`) and gives the tokens before the final norm and
projection. None changes the pass itself, so the global token stays the standard one, and none looks at other images of
the batch.

B images, N = h*w cells in rows, C width, 1+N: the class token first, d size of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.parts.teacher.affinity import cosine_affinity, outliers, pooled_by, repaired


@dataclass(frozen=True)
class ForwardPass:
    """What a standard forward pass leaves for a recipe.

    `blocks`: open_clip's ResidualAttentionBlocks; `layers[l]`: tokens [B, 1+N, C] after block l, counted from 1, for
    those that the recipe asked for, 0 being what enters the first; `grid` (h, w); `nearness` [1+N, 1+N]: naclip's bias.
    """

    blocks: Sequence[Any]
    layers: Mapping[int, Tensor]
    grid: tuple[int, int]
    nearness: Tensor | None = None

    @property
    def last(self) -> Any:
        """The last block."""
        return self.blocks[-1]

    @property
    def before(self) -> Tensor:
        """What enters the last block, [B, 1+N, C]."""
        return self.layers[len(self.blocks) - 1]


@dataclass(frozen=True)
class Recipe:
    """`tokens`: the recipe itself, [B, N, C]; `layers`: depth of the tower -> the layers that it reads."""

    tokens: Callable[[ForwardPass], Tensor]
    layers: Callable[[int], set[int]] = lambda depth: {depth - 1}
    plain_attention: bool = True
    """Whether it takes attentions apart, which must then be torch's own."""


def vanilla(done: ForwardPass) -> Tensor:
    """The last block's own output (P: the paper says no more)."""
    return done.layers[len(done.blocks)][:, 1:]


def value(done: ForwardPass) -> Tensor:
    """The value path of the last attention alone, no residual, no MLP: out(v)."""
    return _attention_output(done.last, _query_key_value(done.last, done.before)[2])[:, 1:]


def maskclip(done: ForwardPass) -> Tensor:
    """MaskCLIP: the last block with every token attending to itself alone; residual and MLP stay."""
    block = done.last
    mixed = done.before + _attention_output(block, _query_key_value(block, done.before)[2])
    return (mixed + block.ls_2(block.mlp(block.ln_2(mixed))))[:, 1:]


def clearclip(done: ForwardPass) -> Tensor:
    """ClearCLIP: query-query attention, no residual, no MLP."""
    query, _, v = _query_key_value(done.last, done.before)
    return _attention_output(done.last, _attend(query, v, done.last))[:, 1:]


def naclip(done: ForwardPass) -> Tensor:
    """NACLIP: key-key attention with a Gaussian of the cells' distance added to the logits, no residual, no MLP."""
    assert done.nearness is not None
    _, key, v = _query_key_value(done.last, done.before)
    return _attention_output(done.last, _attend(key, v, done.last, done.nearness.to(v.dtype)))[:, 1:]


def sclip(done: ForwardPass) -> Tensor:
    """SCLIP's correlative attention: query-query plus key-key, no residual, no MLP."""
    query, key, v = _query_key_value(done.last, done.before)
    return _attention_output(done.last, _attend(query, v, done.last) + _attend(key, v, done.last))[:, 1:]


def kk_mean(done: ForwardPass) -> Tensor:
    """The last values attended by the mean over all layers of their key-key attention, no residual, no MLP."""
    v = _query_key_value(done.last, done.before)[2]
    keys = (_query_key_value(block, done.layers[i])[1] for i, block in enumerate(done.blocks))
    # A mean of attentions applied to the same values is the mean of what they give.
    mixed = sum((_attend(key, v, done.last) for key in keys), torch.zeros_like(v)) / len(done.blocks)
    return _attention_output(done.last, mixed)[:, 1:]


def scclip(done: ForwardPass) -> Tensor:
    """SC-CLIP: outlier tokens repaired, then attention and pooling by what earlier layers find alike.

    Its layers are those of a tower of 12 blocks, scaled to other depths (`scaled_layer`).
    """
    depth = len(done.blocks)
    # Which tokens are outliers, and which alike, is decided in full precision whatever the tower runs in.
    with torch.autocast(done.before.device.type, enabled=False):
        patches = {layer: tokens[:, 1:].float() for layer, tokens in done.layers.items()}
        wrong = outliers(patches[depth - 1])
        alike = cosine_affinity(repaired(patches[scaled_layer(9, depth)], wrong, done.grid))
        entering = pooled_by(alike, repaired(patches[depth - 1], wrong, done.grid), SIMILAR)
        several = torch.stack([done.layers[layer].float() for layer in _middle(depth)]).sum(dim=0)
        texture = cosine_affinity(patches[scaled_layer(4, depth)])
        weight = calibrated_attention(alike)

    def attended(tokens: Tensor, cls: Tensor) -> Tensor:
        _, key, v = _query_key_value(done.last, tokens)
        shared = (weight.to(v.dtype) @ v + _attend(key, v, done.last)) / 2
        return _attention_output(done.last, shared).float() + CLS_SHARE * cls.float()

    once = attended(entering, done.before[:, :1]), attended(several[:, 1:], several[:, :1])
    with torch.autocast(done.before.device.type, enabled=False):
        return pooled_by(texture, once[0], SIMILAR) + pooled_by(texture, once[1], SIMILAR)


SIMILAR = 0.4
"""Least cosine of tokens that scclip pools (C)."""
SHARPNESS = 3.0
"""Factor on scclip's cosines before their softmax (C)."""
CLS_SHARE = 0.3
"""Share of the class token that scclip adds to every cell (C)."""


def calibrated_attention(affinity: Tensor) -> Tensor:
    """scclip's weights: softmax over cosines above their image's mean, sharpened: [B, N, N] -> [B, N, N]."""
    logits = SHARPNESS * (affinity - affinity.mean(dim=(1, 2), keepdim=True))
    itself = torch.eye(affinity.shape[1], dtype=torch.bool, device=affinity.device)
    # A token is never below the mean for itself, but for rounding where all tokens are equal.
    return logits.masked_fill((logits < 0) & ~itself, -math.inf).softmax(dim=-1)


def scaled_layer(layer: int, depth: int) -> int:
    """The layer (from 1) of a tower of `depth` blocks that stands where `layer` stands among 12; never the last."""
    return min(max(round(layer * depth / 12), 1), max(depth - 1, 0))


def _middle(depth: int) -> range:
    return range(scaled_layer(4, depth), scaled_layer(10, depth) + 1)


RECIPES: Mapping[str, Recipe] = {
    "vanilla": Recipe(vanilla, lambda depth: {depth}, plain_attention=False),
    "value": Recipe(value),
    "maskclip": Recipe(maskclip),
    "clearclip": Recipe(clearclip),
    "naclip": Recipe(naclip),
    "sclip": Recipe(sclip),
    "kk_mean": Recipe(kk_mean, lambda depth: set(range(depth))),
    "scclip": Recipe(scclip, lambda depth: {scaled_layer(9, depth), depth - 1, *_middle(depth)}),
}
"""Name -> recipe of a native ViT. The names stand in `TeacherConfig.recipe` too, which must load without torch."""


def neighbourhood(grid: tuple[int, int], std: float) -> Tensor:
    """NACLIP's attention bias: exp(-d^2 / (2 std^2)) for two cells d apart, 0 for the class token.

    float32 [1 + N, 1 + N]; `std` in cells.
    """
    rows, cols = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack((rows.flatten(), cols.flatten()), dim=1).double()
    distance = (places[:, None] - places[None, :]).square().sum(dim=-1)
    return F.pad(torch.exp(-distance / (2 * std**2)), (1, 0, 1, 0)).float()


def _query_key_value(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's queries, keys and values of the tokens that enter it, each [B, n, C]."""
    attn = block.attn
    query, key, v = F.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    return query, key, v


def _attend(own: Tensor, v: Tensor, block: Any, bias: Tensor | None = None) -> Tensor:
    """softmax(own own^T / sqrt(d) + bias) v, per head: [B, n, C]."""
    heads = block.attn.num_heads
    own, v = (tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (own, v))
    return F.scaled_dot_product_attention(own, own, v, attn_mask=bias).transpose(1, 2).flatten(2)


def _attention_output(block: Any, mixed: Tensor) -> Tensor:
    """The attention's output projection and layer scale."""
    result: Tensor = block.ls_1(block.attn.out_proj(mixed))
    return result
