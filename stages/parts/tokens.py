"""Tokens of batches, as the cache and the online teacher both want them: the same calls, the same rounding."""

from __future__ import annotations

import numpy as np
import torch

from cache.settings import InputError
from stages.parts.crops import TeacherView
from stages.parts.settings import ExtractConfig
from stages.parts.teacher import Teacher


def encode(teacher: Teacher, batch: list[TeacherView], cfg: ExtractConfig) -> dict[str, np.ndarray]:
    """Tokens of a batch of views: global [n, D], dense [n, h, w, D], local [p, D] in the stored precision."""
    dim, (h, w) = teacher.dim, teacher.grid
    if not batch:
        empty = {"global": (0, dim), "dense": (0, h, w, dim), "local": (0, dim)}
        return {k: np.zeros(s, cfg.dtype) for k, s in empty.items()}
    tokens, dense = teacher.encode_views(to_pixels(np.stack([v.image for v in batch])))
    return {
        "global": stored(tokens, cfg.dtype),
        "dense": stored(dense, cfg.dtype),
        "local": encode_crops(teacher, np.concatenate([v.crops for v in batch]), cfg),
    }


def token_arrays(views: list[TeacherView], encoded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a `tokens` shard (schema names) from its views and what `encode` made of them."""
    return {
        "global": encoded["global"],
        "local": encoded["local"],
        "local_region": np.array([r for v in views for r in v.regions], np.uint8),
        "local_offsets": np.cumsum([0] + [len(v.regions) for v in views], dtype=np.int64),
        "image_size": np.array([v.image_size for v in views], np.int32).reshape(-1, 2),
        "view_seed": np.array([v.view_seed for v in views], np.uint64),
        "labels_crc": np.array([v.labels_crc for v in views], np.uint32),
    }


def encode_crops(teacher: Teacher, crops: np.ndarray, cfg: ExtractConfig) -> np.ndarray:
    """Local CLS tokens of crops uint8 [p, s, s, 3], in passes of `cfg.batch`: [p, D] in the stored precision."""
    starts = range(0, len(crops), cfg.batch)
    parts = [stored(teacher.encode_crops(to_pixels(crops[i : i + cfg.batch])), cfg.dtype) for i in starts]
    return np.concatenate(parts) if parts else np.zeros((0, teacher.dim), cfg.dtype)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [n, S, S, 3] -> [n, 3, S, S]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def stored(tokens: torch.Tensor, dtype: str) -> np.ndarray:
    """Tokens in the stored precision. Raises InputError where it can't hold one (NaN, infinity)."""
    with np.errstate(over="ignore"):  # told below, in one line
        array: np.ndarray = tokens.float().cpu().numpy().astype(dtype)
    if not np.isfinite(array).all():
        raise InputError(
            f"the teacher gave a token that {dtype} can't hold (NaN or infinite); set extract.dtype=float32"
        )
    return array
