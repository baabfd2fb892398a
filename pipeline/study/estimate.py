"""What a preset would cost on a data set of another size: bytes, arithmetic, and hours on this machine.

Bytes follow from the schema, arithmetic is counted on the networks themselves, hours are seconds of a short
calibration times the number of views. Nothing of the data set is needed.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.errors import InputError
from cache.schema import ARTIFACTS, TOKEN
from pipeline.benchmarks.harness import lines, machine_line, seconds
from pipeline.benchmarks.harness import machine as machine_of
from pipeline.benchmarks.training import fixed_batch, untrained_trainer
from pipeline.benchmarks.world import PHOTOS, draw_photos
from pipeline.config import Config
from pipeline.machine import Machine
from pipeline.text import columns, size
from stages.parts.data.datasets import DataConfig, open_dataset
from stages.parts.data.vocabulary import Vocabulary, load_vocabulary
from stages.parts.mining.clustering import mine
from stages.parts.students import StudentConfig, build_student, count_macs
from stages.parts.teacher.crops import TeacherViews
from stages.parts.teacher.teacher import Teacher, load_teacher, untrained_teacher

LATENT = 4
"""Latent regions a view: what lambda is calibrated for (3-6, method.md section 2)."""
MARK = 6000
"""Bytes of the marks and of zarr's metadata in a shard, as `clip2seg benchmark scale` shows them; and:"""
VIEW_MARK = 24
"""bytes of a view's name in them."""


def images_for(what: str, config: Config) -> tuple[int, Vocabulary]:
    """How many training images `--for` means, and the class list: a shipped vocabulary with counts, or a number.

    Raises InputError for anything else, or less than one.
    """
    own = load_vocabulary(config.data.vocabulary, config.data.split)
    try:
        count = float(what)
    except ValueError:
        named = load_vocabulary(what, "official" if config.data.vocabulary != what else config.data.split)
        counts = dict(named.official_counts)
        if not counts:
            raise InputError(f"--for {what}: this vocabulary states no counts; give a number of images") from None
        return counts.get(config.data.train, max(counts.values())), named
    if not 1 <= count < math.inf:
        raise InputError(f"--for {what}: give a number of images, at least 1")
    return round(count), own


def bytes_per_view(config: Config, grid: tuple[int, int], dim: int, regions: float) -> dict[str, float]:
    """Bytes of one view in each tier, marks included, for so many seen regions a view."""
    token = np.dtype(config.extract.dtype).itemsize
    found = {}
    for kind, local in (("tokens", regions), ("latent", float(LATENT)), ("dense", 0.0)):
        symbols = {"n": 1.0, "n+1": 1.0, "p": local, "D": dim, "h": grid[0], "w": grid[1], "2": 2}
        total = 0.0
        for spec in ARTIFACTS[kind].values():
            each = token if spec.dtype == TOKEN else np.dtype(spec.dtype).itemsize
            total += each * math.prod(symbols[d] for d in spec.dims)
        found[kind] = total + VIEW_MARK + MARK / config.extract.shard
    return found


def estimate(config: Config, what: str, regions: float, machine: Machine) -> dict[str, Any]:
    """The plan of `config` for the size that `what` names; runs the calibration on `machine`.

    `regions`: seen classes in a view. Raises InputError for an impossible `what`, and for a teacher that can't be
    had: one named by open_clip is measured with random weights, any other is loaded.
    """
    images, words = images_for(what, config)
    device, workers = machine.compute.device, max(1, machine.compute.workers)
    named = not config.teacher.model.startswith(("local-dir:", "hf-hub:"))
    teacher = (untrained_teacher if named else load_teacher)(config.teacher, device)
    views = images * config.views.count
    stored = bytes_per_view(config, teacher.grid, teacher.dim, regions)
    if not config.extract.store_dense:
        stored["dense"] = 0.0
    student = config.student.model_copy(update={"weights": ""})
    view_macs, crop_macs = teacher.macs()
    steps, batch = config.train.iterations, config.train.batch
    training = 3 * steps * batch * count_macs(build_student(student, teacher.dim), config.views.size)
    calibrated = _calibrate(config, student, words, teacher, device)
    again = 0 if config.extract.store_dense else 1
    encode = calibrated["view"] + regions * calibrated["crop"]
    hours = {
        "extract": views * max(encode, calibrated["decode"] / workers) / 3600,
        "mine-latent": views
        * (calibrated["mine"] / workers + LATENT * calibrated["crop"] + again * calibrated["view"])
        / 3600,
        "train": steps * batch * calibrated["step"] / 3600,
    }
    gflops = {
        "extract": 2 * views * (view_macs + regions * crop_macs) / 1e9,
        "mine-latent": 2 * views * (LATENT * crop_macs + again * view_macs) / 1e9,
        "train": 2 * training / 1e9,
    }
    return {
        "for": what,
        "images": images,
        "views": views,
        "shards": -(-views // config.extract.shard),
        "regions": regions,
        "bytes_per_view": {k: round(v) for k, v in stored.items()},
        "bytes": {k: round(v * views) for k, v in stored.items()},
        "gflops": gflops,
        "hours": {k: round(v, 3) for k, v in hours.items()},
        "seconds": {k: round(v, 5) for k, v in calibrated.items()},
        "workers": workers,
        "machine": machine_of(device),
    }


def _calibrate(
    config: Config, student: StudentConfig, words: Vocabulary, teacher: Teacher, device: torch.device
) -> dict[str, float]:
    """Seconds: one `view` and one `crop` encoded, one view's `mine`, one training crop's `step`, one photo's `decode`.

    `decode` is a drawn photo of 640x480 with eight regions, through the loader's own code, on one core.
    """
    many = config.extract.batch if device.type == "cuda" else 1
    views = torch.zeros((many, 3, teacher.input_size, teacher.input_size), dtype=torch.uint8, device=device)
    crops = torch.zeros((many, 3, teacher.crop_size, teacher.crop_size), dtype=torch.uint8, device=device)
    random = np.random.default_rng(22)
    fields = random.standard_normal((*teacher.grid, teacher.dim)).astype(np.float32)
    share = np.zeros(teacher.grid, np.float32)
    share[: teacher.grid[0] // 2] = 1
    size_of_step = config.train.batch if device.type == "cuda" else 1
    trainer = untrained_trainer(config, student, len(words.seen), teacher.dim, device)
    batch = fixed_batch(size_of_step, config.views.size, len(words.seen), teacher.dim).to(device)
    return {
        "view": _each(lambda: teacher.encode_views(views), device) / many,
        "crop": _each(lambda: teacher.encode_crops(crops), device) / many,
        "mine": _each(lambda: mine(fields, share, config.mine_latent), device),
        "step": _each(lambda: trainer.step(0, batch), device) / size_of_step,
        "decode": _decode(config, teacher),
    }


def _each(run: Callable[[], Any], device: torch.device, *, budget: float = 4.0) -> float:
    """The least seconds of a call: two at least, as many as fit into `budget` seconds, twenty at most."""
    seconds(run, device)
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < 2 or (time.perf_counter() - begun < budget and len(taken) < 20):
        taken.append(seconds(run, device))
    return min(taken)


def _decode(config: Config, teacher: Teacher) -> float:
    with tempfile.TemporaryDirectory(prefix="clip2seg-estimate-") as folder:
        draw_photos(Path(folder) / PHOTOS, 4)
        drawn = DataConfig(layout="voc", root=str(Path(folder) / PHOTOS), vocabulary="coco_stuff")
        source = TeacherViews(open_dataset(drawn, "train"), config.views, teacher.input_size, teacher.crop_size)
        return min(seconds(functools.partial(source.__getitem__, i), torch.device("cpu")) for i in range(4))


def estimate_text(preset: str, found: Mapping[str, Any]) -> str:
    """The estimate as tables."""
    tiers: list[list[object]] = [["tier", "a view", "in all"]]
    tiers += [[k, size(v), size(found["bytes"][k])] for k, v in found["bytes_per_view"].items()]
    stages: list[list[object]] = [["stage", "GFLOPs", "hours here"]]
    stages += [[k, f"{v:.3g}", f"{found['hours'][k]:.4g}"] for k, v in found["gflops"].items()]
    calibrated = ", ".join(f"{k} {1e3 * v:.3g} ms" for k, v in found["seconds"].items())
    calibration = f"calibration, one of each: {calibrated}; {found['workers']} loader processes"
    return (
        f"preset {preset} for {found['for']}: {found['images']} images, {found['views']} views, "
        f"{found['shards']} shards, {found['regions']:g} seen and {LATENT} latent regions a view\n\n"
        f"{columns(tiers)}\n\n{columns(stages)}\n\n"
        f"{lines(calibration)}\n{machine_line(found)}"
    )
