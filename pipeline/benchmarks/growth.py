"""What a data set's growth costs: memory and time per image of every stage, and the second extract after the first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline import run, score
from pipeline.benchmarks.harness import in_child, peak_mib, ratio, result
from pipeline.config import load_config
from pipeline.machine import Machine
from pipeline.plan import Plan
from stages.demo.world import write_world
from stages.running.progress import say

COUNTS = (250, 1000, 4000)
STAGES = ("extract", "mine-latent", "train", "eval")
TARGET = 1.10
"""Most peak memory of the largest count over the smallest."""
ADDED_TARGET = 0.15
"""Most time of extract for a tenth more photos over the first time."""
ITERATIONS = 40
SETTINGS = (
    # The demo's teacher on small views: milliseconds an image, so that what grows is not hidden behind it.
    "teacher.input_size=32",
    "teacher.crop_size=32",
    "mine-latent.windows=[2]",
    "extract.shard=64",
    "student.arch=fpn",
    "student.encoder=tu-mobilenetv3_small_050",
    "student.head_channels=0",
    "views.size=64",
    "train.batch=8",
    f"train.iterations={ITERATIONS}",
    "train.warmup=4",
    "eval.short_side=64",
    "eval.pictures=1",
)


def growth(device: torch.device, folder: Path, counts: tuple[int, int, int] = COUNTS) -> dict[str, Any]:
    """Each stage in a process of its own, on the same scenes listed under as many names as asked for."""
    root = folder / "world"
    _draw(root, counts)
    rows: dict[str, dict[str, Any]] = {}
    ratios: dict[str, Any] = {}
    for stage in STAGES:
        row = rows[stage] = {}
        found = {}
        for count in counts:
            say(f"growth: {stage}, {count} images")
            found[count] = one = in_child(
                child, stage, count, str(root), str(folder / f"artifacts/{count}"), device.type
            )
            row[f"MiB, {count}"] = round(one["peak_mib"])
            row[f"s, {count}"] = round(one["seconds"], 2)
        peaks = [found[count]["peak_mib"] for count in counts]
        what = f"{stage}: peak memory, {counts[-1]} over {counts[0]} images"
        ratios[what] = ratio(peaks[-1] / peaks[0], most=TARGET)
        # Starting costs the same whatever comes: what an image more costs is the difference.
        first, middle, last = (found[count]["seconds"] for count in counts)
        if stage == "train":
            ratios[f"train: time of {ITERATIONS} steps, {counts[2]} over {counts[0]} images"] = ratio(last / first)
        else:
            early, late = (middle - first) / (counts[1] - counts[0]), (last - middle) / (counts[2] - counts[1])
            row["ms an image"] = round(1e3 * late, 2)
            what = f"{stage}: time an image, {counts[1]}-{counts[2]} over {counts[0]}-{counts[1]}"
            ratios[what] = ratio(late / max(early, 1e-9))
    return result("growth", device, {"scenes": min(counts), "counts": list(counts)}, rows, ratios)


def added(device: torch.device, folder: Path, images: int) -> dict[str, Any]:
    """extract and mine-latent of a list, then of the same list with a tenth more photos; each in a process of its own.

    The demo's settings as they are. Seconds are those of a whole process, as a user waits for a command: by the clock,
    and of its processor, which is what remains where other programs take the cores away. `start`: a process that loads
    the program and its teacher, and no photo.
    """
    more = images + images // 10
    first, then = f"{images} photos", f"{more - images} more"
    root = folder / "world"
    _draw(root, (images, more))
    begun = _timed(start, device.type)
    rows: dict[str, dict[str, Any]] = {"start": _columns({first: begun})}
    ratios: dict[str, Any] = {}
    for stage in STAGES[:2]:
        say(f"added-photos: {stage}, {images} and {more - images} photos")
        taken = {
            name: _timed(child, stage, count, str(root), str(folder / "artifacts"), device.type, ())
            for name, count in ((first, images), (then, more))
        }
        rows[stage] = _columns(taken)
        one, two = taken[first], taken[then]
        # Mining the demo's small views is quick, so that what starting costs is not hidden there: no target.
        most = ADDED_TARGET if stage == "extract" else None
        what = f"{stage}: {more - images} more photos over the first {images}"
        ratios[what] = ratio(two["clock"] / one["clock"], most=most)
        ratios[f"{what}, processor time"] = ratio(two["processor"] / one["processor"], most=most)
        if stage == "extract":
            work = [taken[name]["processor"] - begun["processor"] for name in (then, first)]
            ratios[f"{what}, processor time less start"] = ratio(work[0] / max(work[1], 1e-9))
    return result("added-photos", device, {"photos": images, "added": more - images}, rows, ratios)


def _timed(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Seconds of a process of its own that runs a function of this module: by the clock and of its processor."""
    began = time.perf_counter()
    processor = in_child(function, *arguments)["processor"]
    return {"clock": time.perf_counter() - began, "processor": processor}


def _columns(taken: dict[str, dict[str, float]]) -> dict[str, float]:
    """A row of a table: seconds by the clock, then of the processor."""
    names = {"clock": "s", "processor": "processor s"}
    return {f"{names[kind]}, {name}": round(one[kind], 2) for kind in names for name, one in taken.items()}


def start(device: str) -> dict[str, float]:
    """What one process runs: the demo's teacher is loaded; returns the processor's seconds, imports and all."""
    from stages.parts.teacher.teacher import load_teacher

    load_teacher(load_config("demo").teacher, Machine(device, 0).compute.device)
    return {"processor": time.process_time()}


def _draw(root: Path, counts: Sequence[int]) -> None:
    """As many scenes as the least count, the larger counts being more names for the same files."""
    base = min(counts)
    write_world(root, seed=1, train=base, val=1)
    names = [f"train_{i:05d}" for i in range(max(counts))]
    for i, name in enumerate(names[base:], base):
        for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
            os.link(root / folder / f"train_{i % base:05d}{suffix}", root / folder / f"{name}{suffix}")
    for count in counts:
        (root / f"ImageSets/Segmentation/train{count}.txt").write_text("\n".join(names[:count]) + "\n")


def child(
    stage: str, count: int, root: str, artifacts: str, device: str, settings: Sequence[str] = SETTINGS
) -> dict[str, float]:
    """What one process runs: a stage on `count` images.

    Returns peak memory [MiB], and seconds of the stage by the clock and of the process by its processor.
    """
    lists = [f"data.train=train{count}", f"data.val=train{count}"]
    plan = Plan(load_config("demo", [*settings, *lists]), "growth", artifacts, root)
    stages: dict[str, Callable[..., dict[str, Any]]] = dict(
        zip(STAGES, (run.extract, run.mine_latent, run.train, score.evaluate), strict=True)
    )
    start = time.perf_counter()
    done = stages[stage](plan, Machine(device, 0))
    taken = time.perf_counter() - start
    if stage == "train":
        taken = done["summary"]["seconds"]
    return {"peak_mib": peak_mib(), "seconds": taken, "processor": time.process_time()}
