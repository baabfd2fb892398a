"""What a data set's growth costs: memory and time per image of every stage, and the second extract after the first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline import run
from pipeline.benchmarks.harness import in_child, peak_mib, ratio, result
from pipeline.config import load_config
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

    The demo's settings as they are. Time is a stage's own, with the loading of the teacher.
    """
    more = images + images // 10
    root = folder / "world"
    _draw(root, (images, more))
    rows: dict[str, dict[str, Any]] = {}
    ratios: dict[str, Any] = {}
    for stage in STAGES[:2]:
        taken = [
            in_child(child, stage, count, str(root), str(folder / "artifacts"), device.type, ())["seconds"]
            for count in (images, more)
        ]
        rows[stage] = {f"s, {images} photos": round(taken[0], 2), f"s, {more - images} more": round(taken[1], 2)}
        # Mining the demo's small views is quick, so that what starting costs is not hidden there: no target.
        most = ADDED_TARGET if stage == "extract" else None
        ratios[f"{stage}: {more - images} more photos over the first {images}"] = ratio(taken[1] / taken[0], most=most)
    return result("added-photos", device, {"photos": images, "added": more - images}, rows, ratios)


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
    """What one process runs: a stage on `count` images; returns peak memory [MiB] and seconds."""
    lists = [f"data.train=train{count}", f"data.val=train{count}"]
    plan = Plan(load_config("demo", [*settings, *lists]), "growth", artifacts, root)
    stages: dict[str, Callable[..., dict[str, Any]]] = dict(
        zip(STAGES, (run.extract, run.mine_latent, run.train, run.evaluate), strict=True)
    )
    start = time.perf_counter()
    done = stages[stage](plan, run.Machine(device, 0))
    taken = time.perf_counter() - start
    if stage == "train":
        taken = done["summary"]["seconds"]
    return {"peak_mib": peak_mib(), "seconds": taken}
