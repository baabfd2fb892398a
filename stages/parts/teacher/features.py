"""The features that [affinity] names: of a second network, or of an earlier layer of the teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stages.parts.settings import AffinityConfig
from stages.parts.teacher.teacher import Teacher

Features = Callable[[Tensor], Tensor]
"""Views uint8 [B, 3, S, S], S the teacher's input size -> float32 [B, h, w, C] on its device, each image on its own."""


def load_features(cfg: AffinityConfig, teacher: Teacher) -> Features | None:
    """What computes them; None where [affinity] names nothing.

    Raises InputError for an unknown network, weights that don't fit, and a layer that the teacher doesn't have.
    """
    if not cfg.stored:
        return None
    from stages.parts.students.backbone import load_backbone, reduced  # loads smp, for this alone

    if cfg.encoder:
        network = load_backbone(cfg, teacher.device)
        return lambda images: network(images.to(teacher.device, non_blocking=True))
    side = teacher.input_size
    teacher.encode_layer(torch.zeros((1, 3, side, side), dtype=torch.uint8), cfg.layer)  # refused here, not in the loop
    return lambda images: reduced(teacher.encode_layer(images, cfg.layer), cfg.dim)
