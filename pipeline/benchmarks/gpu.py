"""Training the paper's students at full size, as a share of what the device multiplies at most; and autocast's effect.

And what feeds it: the time of each part of a step, the loader by its processes, the pixel loss of many classes.
`clip2seg benchmark gpu` needs a GPU; the functions run anywhere, which is how the tests run them.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.benchmarks.checks.memory import BATCH as PLANNED_BATCH
from pipeline.benchmarks.checks.memory import planned_gib
from pipeline.benchmarks.harness import interleaved, ratio, result, seconds
from pipeline.benchmarks.training import fixed_batch, training_batches, untrained_trainer
from pipeline.benchmarks.world import World, write_cache
from pipeline.config import load_config
from stages.parts.learning.batches import Batch
from stages.parts.learning.pixel_sums import forward_sums, pixel_sums
from stages.parts.learning.pixel_sums import parts as parts_of
from stages.parts.learning.trainer import Trainer
from stages.parts.students import count_macs
from stages.parts.teacher.crops import TeacherViews, collate_views
from stages.parts.teacher.teacher import Teacher
from stages.running.cached_teacher import load_cache

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


def parts(
    device: torch.device, rounds: int, *, batch: int = 16, side: int = 512, preset: str = "coco_stuff"
) -> dict[str, Any]:
    """Milliseconds of each part of a step on the device, and of the host that issues it.

    Where the host takes as long as the device, launching kernels is the limit, which CUDA graphs would lift.
    """
    config = load_config(preset, ["student.weights=''", f"train.batch={batch}", f"views.size={side}"])
    trainer = untrained_trainer(config, config.student, SEEN, DIM, device)
    made = fixed_batch(batch, side, SEEN, DIM).to(device)
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


def pixel_terms(
    device: torch.device, rounds: int, *, batch: int = 16, side: int = 512, classes: int = 171, stride: int = 4
) -> dict[str, Any]:
    """The pixel loss alone, forward and backward, of scores at the student's stride: seconds and peak memory.

    passes: the time over that of reading a float32 map of batch x classes x side x side once from memory. off by:
    relative difference of the gradient from autograd's.
    """
    logits = (3 * torch.randn(batch, classes, side // stride, side // stride, device=device)).requires_grad_()
    labels = torch.randint(0, classes, (batch, side, side), device=device)
    numbers = batch * classes * side * side
    line = torch.zeros(min(numbers, 2**28), device=device)

    def gradient(sums: Tensor) -> Tensor:
        return torch.autograd.grad(sums.sum(), logits)[0]

    sides: dict[str, Callable[[], Tensor]] = {
        "own gradient": lambda: gradient(torch.stack(pixel_sums(logits, labels, True))),
        "own gradient, compiled": lambda: gradient(torch.stack(pixel_sums(logits, labels, True, compiled=True))),
        "autograd with checkpoints": lambda: gradient(_checkpointed(logits, labels)),
        "one pass": lambda: line.sum(),
    }
    rows: dict[str, dict[str, Any]] = {name: {} for name in sides}
    exact = sides["autograd with checkpoints"]()
    for name, call in sides.items():
        rows[name]["first call s"] = round(seconds(call, device), 2)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        found = call()
        if device.type == "cuda":
            rows[name]["peak GiB"] = round((torch.cuda.max_memory_allocated(device) - held) / 2**30, 2)
        if name != "one pass":
            rows[name]["off by"] = f"{float((found - exact).norm() / exact.norm()):.1e}"
    measured = interleaved(sides, rounds, device)
    one = measured.median("one pass") * numbers / len(line)
    for name in sides:
        taken = one if name == "one pass" else measured.median(name)
        rows[name] |= {"ms": round(1e3 * taken, 2), "passes": round(taken / one, 1)}
    ratios = {
        "checkpoints / own gradient": measured.ratio("autograd with checkpoints", "own gradient"),
        "own gradient / compiled": measured.ratio("own gradient", "own gradient, compiled"),
    }
    about = {
        "batch": batch,
        "classes": classes,
        "pixels": side,
        "stride": stride,
        "rounds": rounds,
        "a map, GiB": round(4 * numbers / 2**30, 2),
        f"peak of batch {PLANNED_BATCH} on a GPU, computed, GiB": round(planned_gib(PLANNED_BATCH, classes, side), 2),
    }
    return result("pixel loss", device, about, rows, ratios)


def _checkpointed(logits: Tensor, labels: Tensor) -> Tensor:
    """The same sums [3] by autograd, which computes each image's maps again in its backward pass."""

    def sums(scores: Tensor, wanted: Tensor) -> Tensor:
        found = [torch.stack(forward_sums(part)[:3]) for part in parts_of(scores, wanted, True)]
        return torch.stack(found).sum(dim=0)

    each = [checkpoint(sums, logits[i : i + 1], labels[i : i + 1], use_reentrant=False) for i in range(len(logits))]
    return torch.stack(each).sum(dim=0)


def loader(world: World, device: torch.device, *, seconds_each: float = 5.0) -> dict[str, Any]:
    """Training images a second by the number of loader processes, from photos, masks and cache to the device."""
    tokens = load_cache(
        *write_cache(world, (32, 32), DIM), num_seen=len(world.data.vocabulary.seen), rows=len(world.data)
    )
    rows: dict[str, dict[str, Any]] = {}
    count = 1
    while count <= max(1, os.cpu_count() or 1) and count <= 16:
        batches = training_batches(world, tokens, count, device)
        for _ in range(2 * count):  # what was made while the processes started
            next(batches)
        images, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds_each:
            images += len(next(batches).to(device).images)
        rows[f"{count} processes"] = {"images/s": round(images / (time.perf_counter() - start), 1)}
        del batches
        count *= 2
    config = world.plan.config
    settings = {"preset": world.plan.name, "pixels": config.views.size, "batch": config.train.batch}
    return result("loader", device, settings, rows, {})


def compiled_student(device: torch.device, rounds: int, *, batch: int = 16, side: int = 512) -> dict[str, Any]:
    """Steps a second of SegFormer-B4, eager and compiled, and the seconds that compiling takes."""
    config = load_config("coco_stuff", ["student.weights=''", f"train.batch={batch}", f"views.size={side}"])
    made = fixed_batch(batch, side, SEEN, DIM).to(device)
    rows, sides = {}, {}
    for name in ("eager", "compiled"):
        trainer = untrained_trainer(config, config.student, SEEN, DIM, device, compiled=name == "compiled")
        rows[name] = {"first step s": round(seconds(lambda t=trainer: t.step(0, made), device), 1)}  # type: ignore[misc]
        sides[name] = functools.partial(_steps, trainer, made)
    measured = interleaved(sides, rounds, device)
    for name in sides:
        rows[name]["it/s"] = round(STEPS / measured.median(name), 3)
    settings = {"batch": batch, "pixels": side, "rounds": rounds, "precision": _precision(trainer)}
    return result("compiled", device, settings, rows, {"eager / compiled": measured.ratio("eager", "compiled")})


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
