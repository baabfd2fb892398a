"""extract over its limit: the teacher's own forward passes on the same batches, already on the device."""

from __future__ import annotations

import itertools
import shutil
from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.harness import interleaved, result
from pipeline.benchmarks.world import World
from stages import extract as stage
from stages.parts.teacher.crops import TeacherViews, collate_views
from stages.parts.teacher.tokens import encode

TARGET = {"cpu": 1.10, "cuda": 1.25}
"""Most wall time of the stage over the teacher alone."""


def extract(world: World, rounds: int, device: torch.device, workers: int) -> dict[str, Any]:
    """Decode, crop, encode, store; against encode_views and encode_crops alone."""
    cfg, teacher = world.plan.config.extract, world.teacher(device)
    source = TeacherViews(world.data, world.plan.config.views, teacher.input_size, teacher.crop_size)
    rows, names = len(source), itertools.count()
    cuts = [
        (start, min(start + cfg.batch, shard + cfg.shard, rows))
        for shard in range(0, rows, cfg.shard)
        for start in range(shard, min(shard + cfg.shard, rows), cfg.batch)
    ]
    batches = [collate_views([source[row] for row in range(*cut)]) for cut in cuts]
    crops = sum(len(b.crops) for b in batches)
    ready = [(b.images.to(device), b.crops.to(device)) for b in batches]
    waits: list[float] = []
    last: dict[str, Any] = {}

    def alone() -> None:
        for images, regions in ready:
            teacher.encode_views(images)
            for part in regions.split(cfg.batch):
                teacher.encode_crops(part)

    def whole() -> None:
        if last:
            shutil.rmtree(world.folder / last["name"])
        last["name"] = name = f"extract-{next(names)}"
        out = world.tiers(name)
        summary = stage.fill(world.plan.cache_recipe, teacher, world.data, out, workers=workers)
        waits.append(summary["seconds"].get("wait", 0.0))
        last["tokens"] = out.tokens

    measured = interleaved({"stage": whole, "teacher alone": alone}, rounds, device)
    stored = last["tokens"].load(["global", "local"])
    again = [encode(teacher, b, cfg).arrays() for b in batches]
    equal = all(np.array_equal(stored[k], np.concatenate([a[k] for a in again])) for k in stored)
    waiting = sorted(waits)[len(waits) // 2]
    table: dict[str, dict[str, Any]] = {
        name: {"seconds": round(measured.median(name), 3), "images/s": round(rows / measured.median(name), 2)}
        for name in measured.seconds
    }
    table["stage"] |= {"waiting for images": f"{100 * waiting / measured.median('stage'):.1f} %"}
    settings = {
        "preset": world.plan.name,
        "teacher": world.plan.config.teacher.model.rsplit("/", 1)[-1],
        "precision": world.plan.config.teacher.precision,
        "input": teacher.input_size,
        "views": rows,
        "crops": crops,
        "loader processes": workers,
        "rounds": rounds,
        "tokens equal": equal,
    }
    aim = {
        "stage / teacher alone": measured.ratio("stage", "teacher alone", most=TARGET[device.type]),
        "the same, processor time of this process": measured.processor_ratio("stage", "teacher alone"),
    }
    return result("extract", device, settings, table, aim)
