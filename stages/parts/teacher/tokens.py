"""Encodes batches for the cache and for the online teacher alike: the same calls, the same rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cache.errors import InputError
from stages.parts.settings import ExtractConfig
from stages.parts.teacher.crops import TeacherBatch, TeacherView
from stages.parts.teacher.features import Features
from stages.parts.teacher.teacher import Teacher


class PendingTokens:
    """The tokens of a batch in the stored precision, on their way from the device: ask for `arrays` when needed.

    A GPU has then already begun the next batch. On the CPU they are there at once.
    """

    def __init__(
        self, tokens: Mapping[str, Tensor], dtype: str, names: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """tokens: [rows, ...] each; names: what each row of a kind was made from, for an error's sake."""
        self._names = names or {}
        # Cast where the tokens are: half the bytes to move, and many cores to do it.
        cast = {name: t.to(getattr(torch, dtype)) for name, t in tokens.items()}
        self._dtype = dtype
        self._finite = _moved(torch.stack([t.isfinite().all() for t in cast.values()]).all())
        self._host = {name: _moved(t) for name, t in cast.items()}
        device = next(iter(tokens.values())).device
        self._event = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

    def arrays(self) -> dict[str, np.ndarray]:
        """Waits; raises InputError, naming the photo, where a token is NaN or more than the stored precision holds."""
        if self._event is not None:
            self._event.synchronize()
        if not self._finite.item():
            raise InputError(self._complaint())
        return {name: t.numpy() for name, t in self._host.items()}

    def _complaint(self) -> str:
        """Which token is not finite, and why: a cast that overflows gives infinity, never NaN."""
        kind, tokens = next((k, t) for k, t in self._host.items() if not t.isfinite().all())
        row = int((~tokens.isfinite().flatten(1).all(dim=1)).nonzero()[0])
        names = self._names.get(kind, ())
        where = names[row] if row < len(names) else "a crop"
        if any(t.isnan().any() for t in self._host.values()) or self._dtype == "float32":
            return (
                f"{where}: the teacher gave NaN or infinity for its {kind} token; its weights are damaged (fetch them "
                "anew), or teacher.precision is too small for it (set fp32)"
            )
        return f"{where}: the teacher gave a {kind} token beyond what {self._dtype} can hold; set extract.dtype=float32"


def _moved(tensor: Tensor) -> Tensor:
    """A copy on its way to the host; valid once an event recorded after it has come."""
    if tensor.device.type != "cuda":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def encode(
    teacher: Teacher | None, batch: TeacherBatch, cfg: ExtractConfig, features: Features | None = None
) -> PendingTokens:
    """Tokens of a batch of views: global [n, D], dense [n, h, w, D], local [p, D]. A GPU's work is only begun.

    With `features` also those of [affinity], [n, h', w', C]; without a teacher nothing else.
    """
    tokens = _tokens(teacher, batch, cfg) if teacher is not None else {}
    if features is not None:
        side = batch.images.shape[-1] or 64  # no image: any size tells how many channels there are
        images = batch.images if len(batch.images) else torch.zeros((1, 3, side, side), dtype=torch.uint8)
        tokens["features"] = features(images)[: len(batch.images)]
    views = [v.id for v in batch.good if v.known is None]
    names = {"global": views, "dense": views, "features": views, "local": [v.id for v in batch.good for _ in v.regions]}
    return PendingTokens(tokens, cfg.dtype, names)


def _tokens(teacher: Teacher, batch: TeacherBatch, cfg: ExtractConfig) -> dict[str, Tensor]:
    dim, (h, w) = teacher.dim, teacher.grid
    shapes = {"global": (0, dim), "dense": (0, h, w, dim), "local": (0, dim)}
    made = {name: torch.zeros(shape, device=teacher.device) for name, shape in shapes.items()}
    if len(batch.images):
        made["global"], made["dense"] = teacher.encode_views(batch.images)
    if len(batch.crops):
        made["local"] = torch.cat([teacher.encode_crops(part) for part in batch.crops.split(cfg.batch)])
    return made


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
        "photo_crc": np.array([v.photo_crc for v in views], np.uint32),
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
    return PendingTokens({"tokens": tokens}, dtype).arrays()["tokens"]
