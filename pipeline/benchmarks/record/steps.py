"""Training the paper's students at full size: steps a second, share of the matmul peak, where a step's time goes.

`clip2seg benchmark gpu` needs a GPU; the functions run anywhere, which is how the tests run them.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.harness import interleaved, ratio, result, seconds
from pipeline.benchmarks.training import fixed_batch, untrained_trainer
from pipeline.config import load_config
from stages.parts.learning.batches import Batch
from stages.parts.learning.trainer import Trainer
from stages.parts.students import count_macs

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
        trainer, made = at_full_size(preset, device, batch, side)
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


def parts(
    device: torch.device, rounds: int, *, batch: int = 16, side: int = 512, preset: str = "coco_stuff"
) -> dict[str, Any]:
    """Milliseconds of each part of a step on the device, and of the host that issues it.

    Where the host takes as long as the device, launching kernels is the limit, which CUDA graphs would lift.
    """
    trainer, made = at_full_size(preset, device, batch, side)
    trainer.step(0, made)
    found: dict[str, list[float]] = {}
    for _ in range(max(3, rounds)):
        for name, taken in _parts(trainer, made, device).items():
            found.setdefault(name, []).append(1e3 * taken)
    rows = {name: {"ms": round(float(np.median(taken)), 2)} for name, taken in found.items()}
    whole, host = rows["whole step"]["ms"], rows["host, whole step"]["ms"]
    settings = {"preset": preset, "batch": batch, "pixels": side, "precision": _precision(trainer)}
    return result("parts of a step", device, settings, rows, {"host / device": ratio(host / whole)})


def _parts(trainer: Trainer, batch: Batch, device: torch.device) -> dict[str, float]:
    """Seconds of each part of one step."""
    marks: list[tuple[str, Any]] = []

    def mark(name: str) -> None:
        if device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            marks.append((name, event))
        else:
            marks.append((name, time.perf_counter()))

    learner = trainer.learner.train()
    hook = learner.student.register_forward_hook(lambda *_: mark("student, forward"))
    seconds(lambda: None, device)
    start = time.perf_counter()
    mark("start")
    with torch.autocast(device.type, trainer.dtype, enabled=trainer.dtype is not None):
        total = learner(batch)["total"]
    mark("losses, forward")
    total.backward()
    mark("backward")
    trainer.optimiser.step()
    trainer.optimiser.zero_grad()
    mark("AdamW")
    host = time.perf_counter() - start
    seconds(lambda: None, device)
    hook.remove()

    def between(a: Any, b: Any) -> float:
        return a.elapsed_time(b) / 1e3 if device.type == "cuda" else b - a

    found = {name: between(before, after) for (_, before), (name, after) in itertools.pairwise(marks)}
    return {**found, "whole step": between(marks[0][1], marks[-1][1]), "host, whole step": host}


def compiled_student(device: torch.device, rounds: int, *, batch: int = 16, side: int = 512) -> dict[str, Any]:
    """Steps a second of SegFormer-B4, eager and compiled, and the seconds that compiling takes."""
    rows, sides = {}, {}
    for name in ("eager", "compiled"):
        trainer, made = at_full_size("coco_stuff", device, batch, side, compiled=name == "compiled")
        rows[name] = {"first step s": round(seconds(functools.partial(trainer.step, 0, made), device), 1)}
        sides[name] = functools.partial(_steps, trainer, made)
    measured = interleaved(sides, rounds, device)
    for name in sides:
        rows[name]["it/s"] = round(STEPS / measured.median(name), 3)
    settings = {"batch": batch, "pixels": side, "rounds": rounds, "precision": _precision(trainer)}
    return result("compiled", device, settings, rows, {"eager / compiled": measured.ratio("eager", "compiled")})


def at_full_size(
    preset: str, device: torch.device, batch: int, side: int, *, compiled: bool = False
) -> tuple[Trainer, Batch]:
    """A preset's student, untrained, with all its losses, and a batch that lies on the device."""
    config = load_config(preset, ["student.weights=''", f"train.batch={batch}", f"views.size={side}"])
    trainer = untrained_trainer(config, config.student, SEEN, DIM, device, compiled=compiled)
    return trainer, fixed_batch(batch, side, SEEN, DIM).to(device)


def _precision(trainer: Trainer) -> str:
    return str(trainer.dtype or torch.float32).removeprefix("torch.")


def _steps(trainer: Trainer, batch: Batch) -> None:
    for _ in range(STEPS):
        trainer.step(0, batch)


def matmul_peak(device: torch.device, rounds: int, matrix: int = 8192) -> float:
    """FLOP/s of the best of some bf16 products."""
    a, b = (torch.randn(matrix, matrix, device=device).bfloat16() for _ in range(2))
    seconds(lambda: a @ b, device)
    taken = min(seconds(lambda: a @ b, device) for _ in range(max(3, rounds)))
    return 2 * matrix**3 / taken
