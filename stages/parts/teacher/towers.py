"""Image towers of a teacher: one pass gives the global token and the dense tokens (method.md section 1).

Three kinds of tower, one shape: `tower(images)` -> global [B, D]; `tower.tokens(images)` -> the same global
token and dense tokens [B, h, w, D]. Each wraps a tower of open_clip (handed in, never imported here) at one
input size; towers of two sizes share their weights.

D embedding size, h w token grid, N = h*w, C channels of the last feature map.
"""

from __future__ import annotations

import copy
import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cache.errors import InputError
from stages.parts.teacher.recipes import RECIPES, ForwardPass, neighbourhood


class VitTower(nn.Module):
    """open_clip's own ViT: one standard forward pass, and what the recipe computes from its layers."""

    nearness: Tensor | None

    def __init__(self, visual: Any, size: int, recipe: str, gaussian_std: float) -> None:
        """`visual`: open_clip VisionTransformer; `size`: input side [pixels]; see `TeacherConfig` for the rest.

        Raises InputError for towers whose patch tokens don't reach the embedding space (attentional pooling)
        or that the recipe can't take apart, and for a size that the patches don't divide.
        """
        super().__init__()
        patch, blocks = visual.patch_size[0], visual.transformer.resblocks
        if visual.attn_pool is not None or visual.pool_type == "none":
            raise InputError(
                "this teacher pools its tokens by attention (CoCa): it has no dense tokens in the embedding space; "
                "take a teacher with a class token or average pooling"
            )
        if size % patch:
            raise InputError(f"input size {size} is no multiple of the teacher's patch size {patch}; change it")
        self.recipe = RECIPES[recipe]
        if recipe not in fitting_recipes(visual):
            raise InputError(f"recipe {recipe} needs plain attention; this teacher has its own: use vanilla")
        self._layers = sorted((self.recipe.layers(len(blocks)) | {len(blocks)}) - {0})
        self.visual = _at_size(visual, size)
        self.grid, self.depth = (size // patch, size // patch), len(blocks)
        bias = neighbourhood(self.grid, gaussian_std) if recipe == "naclip" else None
        self.register_buffer("nearness", bias, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> global token [B, D], as open_clip's `encode_image`."""
        result: Tensor = self.visual.forward_intermediates(images, indices=1)["image_features"]
        return result

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, S, S] -> global [B, D], dense [B, h, w, D]."""
        visual, blocks = self.visual, self.visual.transformer.resblocks
        layers: dict[int, Tensor] = {}
        # open_clip hands out what leaves each block; what enters the first is caught on its way.
        caught = blocks[0].register_forward_pre_hook(lambda _, given: layers.update({0: given[0]}))
        try:
            done = visual.forward_intermediates(
                images,
                indices=[layer - 1 for layer in self._layers],
                output_fmt="NLC",
                output_extra_tokens=True,
            )
        finally:
            caught.remove()
        parts = zip(done["image_intermediates_prefix"], done["image_intermediates"], strict=True)
        layers |= zip(self._layers, (torch.cat(part, dim=1) for part in parts), strict=True)
        dense = self.recipe.tokens(ForwardPass(blocks, layers, self.grid, self.nearness))
        dense = visual.ln_post(dense) @ visual.proj
        return done["image_features"], dense.unflatten(1, self.grid)

    def layer(self, images: Tensor, number: int) -> Tensor:
        """[B, 3, S, S] -> what leaves block `number`, from 1, without the class token: [B, h, w, C]."""
        done = self.visual.forward_intermediates(
            images, indices=[number - 1], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        result: Tensor = done["image_intermediates"][0].unflatten(1, self.grid)
        return result


class ResNetTower(nn.Module):
    """OpenAI's ModifiedResNet: dense tokens are the value and output projections of its attention pooling."""

    def __init__(self, visual: Any, size: int) -> None:
        """`visual`: open_clip ModifiedResNet. Raises InputError for a size that its stride 32 doesn't divide."""
        super().__init__()
        if size % 32:
            raise InputError(f"input size {size} is no multiple of the teacher's stride 32; change it")
        self.visual = _at_size(visual, size)
        self.grid = (size // 32, size // 32)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> global token [B, D], as open_clip's `encode_image`."""
        result: Tensor = self.visual(images)
        return result

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, S, S] -> global [B, D], dense [B, h, w, D]."""
        visual = self.visual
        maps = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            maps = layer(maps)
        pool = visual.attnpool
        return pool(maps), pool.c_proj(pool.v_proj(maps.permute(0, 2, 3, 1)))


class TrunkTower(nn.Module):
    """A timm trunk under open_clip's TimmModel: each cell of the last feature map is pooled on its own.

    Pooling one cell alone is the trunk's own projection of that cell: a plain linear map for average pooling,
    the value path for attention pooling (one key, so its weight is 1).
    """

    def __init__(self, visual: Any, size: int) -> None:
        """`visual`: open_clip TimmModel; `size`: input side [pixels]."""
        super().__init__()
        self.visual = _at_size(visual, size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> global token [B, D], as open_clip's `encode_image`."""
        result: Tensor = self.visual(images)
        return result

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, S, S] -> global [B, D], dense [B, h, w, D]."""
        trunk = self.visual.trunk
        features = trunk.forward_features(images)
        if features.ndim == 4:
            alone, shape = self._map_cells(features)
        else:
            alone, shape = self._token_cells(features)
        return self._head(features), self._head(alone).reshape(*shape, -1)

    def _head(self, features: Tensor) -> Tensor:
        result: Tensor = self.visual.head(self.visual.trunk.forward_head(features))
        return result

    def _map_cells(self, features: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Feature map -> one 1x1 map per cell."""
        if getattr(self.visual.trunk, "output_fmt", "NCHW") == "NHWC":
            b, h, w, c = features.shape
            return features.reshape(b * h * w, 1, 1, c), (b, h, w)
        b, c, h, w = features.shape
        return features.permute(0, 2, 3, 1).reshape(b * h * w, c, 1, 1), (b, h, w)

    def _token_cells(self, features: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Token sequence [B, prefix + N, C] -> one sequence per cell, the cell standing in every place.

        So that pooling by class token, by mean and by attention all see that cell and nothing else.
        """
        prefix = getattr(self.visual.trunk, "num_prefix_tokens", 0)
        cells = features[:, prefix:]
        b, n, c = cells.shape
        side = math.isqrt(n)
        if side * side != n:
            raise InputError(f"this teacher gives {n} tokens, which is no square grid: its dense tokens are unusable")
        return cells.reshape(b * n, 1, c).expand(-1, 1 + prefix, -1), (b, side, side)


class WindowedTower(nn.Module):
    """Dense tokens of a view from overlapping windows of it: where several windows show a cell, their mean."""

    def __init__(self, tower: VitTower | ResNetTower | TrunkTower, size: int, cfg: Any) -> None:
        """`tower`: at the window's size; `size`: side of the view [pixels]; `cfg`: `TeacherConfig`.

        Raises InputError where window, stride and view don't share the tower's cells.
        """
        super().__init__()
        self.tower, self.window, step = tower, cfg.window, cfg.window_stride
        with torch.no_grad():
            like = next(tower.parameters())
            black = torch.zeros((1, 3, self.window, self.window), device=like.device, dtype=like.dtype)
            cells = tower.tokens(black)[1].shape[1]
        self.cell = self.window // cells
        if self.window > size:
            raise InputError(f"teacher.window {self.window} is larger than the view of {size} pixels; lower it")
        for name, value in (("window", self.window), ("stride", step), ("input_size", size)):
            if value % self.cell or self.window % cells:
                raise InputError(
                    f"teacher.{name} {value} is no multiple of this teacher's cells of {self.cell} pixels; change it"
                )
        starts = sorted({*range(0, size - self.window + 1, step), size - self.window})
        self.corners = [(y, x) for y in starts for x in starts]
        self.grid = (size // self.cell, size // self.cell)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> dense [B, h, w, D], float32."""
        total: Tensor | None = None
        count = torch.zeros(self.grid, device=images.device)
        for y, x in self.corners:
            part = self.tower.tokens(images[:, :, y : y + self.window, x : x + self.window])[1].float()
            if total is None:
                total = part.new_zeros(part.shape[0], *self.grid, part.shape[-1])
            rows, columns = (slice(at // self.cell, (at + self.window) // self.cell) for at in (y, x))
            total[:, rows, columns] += part
            count[rows, columns] += 1
        assert total is not None
        return total / count.unsqueeze(-1)


def family(visual: Any) -> str:
    """What kind of tower of open_clip it is, in words."""
    if hasattr(visual, "trunk"):
        return f"timm {type(visual.trunk).__name__}"
    return "ModifiedResNet" if hasattr(visual, "attnpool") else "native ViT"


def fitting_recipes(visual: Any) -> list[str]:
    """Recipes that a tower of open_clip has: those of a native ViT as far as its attention is torch's own."""
    if not hasattr(visual, "transformer"):
        return ["feature_map"]
    plain = all(isinstance(block.attn, nn.MultiheadAttention) for block in visual.transformer.resblocks)
    return [name for name, recipe in RECIPES.items() if plain or not recipe.plain_attention]


def resized_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positional embedding [1 + n*n, C] -> [1 + h*w, C]: bicubic, antialiased, as open_clip does at loading."""
    side = math.isqrt(positions.shape[0] - 1)
    square = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat((positions[:1], square.permute(0, 2, 3, 1).flatten(0, 2)))


def native_size(visual: Any) -> int:
    """Side of a tower's own square input [pixels]. Raises InputError where it isn't square."""
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise InputError(f"this teacher takes {height} x {width} pixels: only square inputs are supported")
    return int(height)


def _at_size(visual: Any, size: int) -> Any:
    """The tower for inputs of `size` pixels: itself at its native size, else a copy that shares its weights.

    Only positional terms are the copy's own.
    """
    if native_size(visual) == size:
        return visual
    shared = {id(tensor): tensor for tensor in chain(visual.parameters(), visual.buffers())}
    tower = copy.deepcopy(visual, shared)
    if hasattr(tower, "attnpool"):
        _set_positions(tower.attnpool, (size // 32, size // 32))
    elif hasattr(tower, "positional_embedding"):
        _set_positions(tower, (size // tower.patch_size[0], size // tower.patch_size[1]))
    elif hasattr(tower.trunk, "set_input_size"):
        tower.trunk.set_input_size(img_size=(size, size))
    return tower


def _set_positions(module: Any, grid: tuple[int, int]) -> None:
    resized = resized_positions(module.positional_embedding.detach(), grid)
    module.positional_embedding = nn.Parameter(resized, requires_grad=False)
