"""What a training sample costs a processor over decoding its two files alone; how many the loader's processes make."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.benchmarks.harness import interleaved, result
from pipeline.benchmarks.training import training_batches
from pipeline.benchmarks.world import World, write_cache
from pipeline.machine import keep_freed_memory
from stages.parts.learning.batches import TrainingSet, collate
from stages.parts.teacher.crops import TeacherViews, collate_views
from stages.running.cached_teacher import load_cache
from stages.running.compute import cores

TARGET = 3.0
"""Most processor time of a sample over that of decoding its JPEG and its mask (issue 15)."""
GRID, DIM = (32, 32), 512


def loader(world: World, rounds: int, device: torch.device) -> dict[str, Any]:
    """Processor milliseconds an image, in this process: what a loader's process does, without its sending.

    bare decode: JPEG and mask to arrays by Pillow. decoded and checked: the same as the data set gives them. loader:
    crops with Y_p and their regions' tokens from a cache, in batches of bytes, as they travel. student's input: a
    batch distorted and normalised where it lies. teacher's views: whole images and a crop of each seen region, in
    batches, as `extract` reads them.
    """
    keep_freed_memory()  # as every stage does
    torch.set_num_threads(1)  # as torch does in a loader's process
    config, data = world.plan.config, world.data
    seen, size = len(data.vocabulary.seen), config.train.batch
    tokens = load_cache(*write_cache(world, GRID, DIM), num_seen=seen, rows=len(data))
    training = TrainingSet(data, config.views, seen, tokens, seed=0, photometric=config.train.photometric)
    views = TeacherViews(data, config.views, config.teacher.input_size or 224, config.teacher.crop_size or 224)
    batch = collate([training[i, 0] for i in range(min(size, len(data)))]).to(device)
    epochs = iter(range(1_000_000))

    def decode() -> None:
        for record in data.records:
            for file in (record.image, record.mask):
                with Image.open(file) as image:
                    np.asarray(image)

    def batches() -> None:
        epoch = next(epochs)  # another one each time, so that crops of all kinds count
        for part in _parts(len(data), size):
            collate([training[i, epoch] for i in part])

    def teacher() -> None:
        for part in _parts(len(data), config.extract.batch):
            collate_views([views[i] for i in part])

    sides: dict[str, tuple[Callable[[], Any], int]] = {
        "bare decode": (decode, len(data)),
        "decoded and checked": (lambda: [(data.image(i), data.labels(i)) for i in range(len(data))], len(data)),
        "loader": (batches, len(data)),
        "student's input, on the device": (batch.student_input, len(batch.images)),
        "teacher's views": (teacher, len(data)),
    }
    measured = interleaved({name: side for name, (side, _) in sides.items()}, rounds, device)
    rows = {
        name: {
            "processor ms an image": round(1e3 * statistics.median(measured.processor[name]) / count, 3),
            "ms an image": round(1e3 * measured.median(name) / count, 3),
        }
        for name, (_, count) in sides.items()
    }
    ratios = {
        "loader / bare decode, processor time": measured.processor_ratio("loader", "bare decode", most=TARGET),
        "teacher's views / bare decode, processor time": measured.processor_ratio("teacher's views", "bare decode"),
    }
    settings = {
        "preset": world.plan.name,
        "images": len(data),
        "pixels": "x".join(map(str, data.image(0).shape[1::-1])),
        "crop": config.views.size,
        "batch": size,
        "photometric": config.train.photometric,
        "rounds": rounds,
    }
    return result("loader", device, settings, rows, ratios)


def loader_processes(world: World, device: torch.device, *, seconds_each: float = 5.0) -> dict[str, Any]:
    """Training images a second by the number of loader processes, from photos, masks and cache to the device."""
    tokens = load_cache(*write_cache(world, GRID, DIM), num_seen=len(world.data.vocabulary.seen), rows=len(world.data))
    rows: dict[str, dict[str, Any]] = {}
    count = 1
    while count <= min(cores(), 16):
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


def _parts(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
