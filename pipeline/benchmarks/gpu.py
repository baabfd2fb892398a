"""Training the paper's students at full size, as a share of what the device multiplies at most; and autocast's effect.

`clip2seg benchmark gpu` needs a GPU; the functions run anywhere, which is how the tests run them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.benchmarks.harness import interleaved, ratio, result, seconds
from pipeline.benchmarks.training import fixed_batch, untrained_trainer
from pipeline.benchmarks.world import World
from pipeline.config import load_config
from stages.parts.learning.batches import Batch
from stages.parts.learning.trainer import Trainer
from stages.parts.students import count_macs
from stages.parts.teacher.crops import TeacherViews, collate_views
from stages.parts.teacher.teacher import Teacher

STUDENTS = {
    "SegFormer-B4": "coco_stuff",
    "SegNeXt-B": "coco_stuff_segnext_b",
    "SETR-B": "coco_stuff_setr_b",
}
"""Student of the paper -> the preset that trains it."""
DIM, SEEN = 512, 156
GOAL = 20.0
"""Steps a second of SegFormer-B4 at 512 pixels, batch 16, bf16, on an H200."""
STEPS = 5


def students(
    device: torch.device,
    rounds: int,
    *,
    batch: int = 16,
    side: int = 512,
    presets: Mapping[str, str] = STUDENTS,
    matrix: int = 8192,
) -> dict[str, Any]:
    """Steps a second of all losses on one batch that lies on the device, peak memory, share of the matmul peak.

    The share counts three forward passes' multiply-accumulates a step, two operations each, and nothing of the
    losses. The peak is the best of `rounds` products of two square bf16 matrices of `matrix` rows.
    """
    peak = matmul_peak(device, rounds, matrix)
    rows: dict[str, dict[str, Any]] = {"bf16 matrix product": {"TFLOP/s": round(peak / 1e12, 3)}}
    ratios: dict[str, Any] = {}
    cuda = device.type == "cuda"
    for name, preset in presets.items():
        config = load_config(preset, ["student.weights=''", f"train.batch={batch}", f"views.size={side}"])
        trainer = untrained_trainer(config, config.student, SEEN, DIM, device)
        made = fixed_batch(batch, side, SEEN, DIM).to(device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        measured = interleaved({name: functools.partial(_steps, trainer, made)}, rounds, device)
        step = measured.median(name) / STEPS
        done = 6 * batch * count_macs(trainer.learner.student, side) / step
        rows[name] = {"it/s": round(1 / step, 3), "TFLOP/s": round(done / 1e12, 3)}
        if cuda:
            rows[name]["peak GiB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
            torch.cuda.empty_cache()
        ratios[f"{name}: share of the bf16 peak"] = ratio(done / peak)
        if name == "SegFormer-B4" and side == 512 and batch == 16:
            ratios["SegFormer-B4: it/s over the goal of 20"] = ratio(1 / step / GOAL, least=1.0)
    settings = {"batch": batch, "pixels": side, "seen classes": SEEN, "precision": "bf16 autocast on GPUs"}
    return result("gpu", device, {**settings, "rounds": rounds}, rows, ratios)


def _steps(trainer: Trainer, batch: Batch) -> None:
    for _ in range(STEPS):
        trainer.step(0, batch)


def matmul_peak(device: torch.device, rounds: int, matrix: int = 8192) -> float:
    """FLOP/s of the best of some bf16 products."""
    a, b = (torch.randn(matrix, matrix, device=device).bfloat16() for _ in range(2))
    seconds(lambda: a @ b, device)
    taken = min(seconds(lambda: a @ b, device) for _ in range(max(3, rounds)))
    return 2 * matrix**3 / taken


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
