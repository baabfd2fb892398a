"""What autocast does to a teacher's tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.benchmarks.harness import result
from pipeline.benchmarks.world import World
from stages.parts.teacher.crops import TeacherViews, collate_views
from stages.parts.teacher.teacher import Teacher


def precision(world: World, device: torch.device) -> dict[str, Any]:
    """Cosine of the tokens under bf16 and fp16 autocast to those of fp32, on the world's images."""
    teacher, cfg = world.teacher(device), world.plan.config
    source = TeacherViews(world.data, cfg.views, teacher.input_size, teacher.crop_size)
    batch = collate_views([source[row] for row in range(len(source))])
    images, crops = batch.images.split(cfg.extract.batch), batch.crops.split(cfg.extract.batch)
    exact = _tokens(teacher, images, crops)
    rows = {}
    for kind in ("bf16", "fp16"):
        teacher.cfg = cfg.teacher.model_copy(update={"precision": kind})
        found = _tokens(teacher, images, crops)
        for name, tokens in found.items():
            cosine = functional.cosine_similarity(tokens, exact[name], dim=-1).numpy()
            least, low, mean = cosine.min(), np.quantile(cosine, 0.01), cosine.mean(dtype=np.float64)
            shown = {"mean": f"{mean:.6f}", "1 %": f"{low:.6f}", "least": f"{least:.6f}"}
            rows[f"{kind}, {name}"] = {"tokens": len(tokens), **shown}
    weights = "random" if world.drawn else "the preset's"
    settings = {"preset": world.plan.name, "views": len(source), "weights": weights, "against": "fp32"}
    return result("precision", device, settings, rows, {})


def _tokens(teacher: Teacher, images: Any, crops: Any) -> dict[str, torch.Tensor]:
    """Global, dense and local tokens, each [n, D], on the CPU."""
    pairs = [teacher.encode_views(part) for part in images]
    return {
        "global": torch.cat([g for g, _ in pairs]).cpu(),
        "dense": torch.cat([d.flatten(0, 2) for _, d in pairs]).cpu(),
        "local": torch.cat([teacher.encode_crops(part) for part in crops]).cpu(),
    }
