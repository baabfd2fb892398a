"""Which benchmarks there are, on what they run when nothing is said, and how their tables are kept."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cache.errors import InputError, nearest
from pipeline.benchmarks import inference
from pipeline.benchmarks.allocator import allocator
from pipeline.benchmarks.extract import extract
from pipeline.benchmarks.gpu_check import check_text, gpu_check
from pipeline.benchmarks.growth import added, growth
from pipeline.benchmarks.harness import text
from pipeline.benchmarks.loader import loader, loader_processes
from pipeline.benchmarks.mining import mine_concepts, mine_latent
from pipeline.benchmarks.reading import reading
from pipeline.benchmarks.recipes import recipes
from pipeline.benchmarks.record.kernels import depthwise, kernels
from pipeline.benchmarks.record.pixels import pixel_terms
from pipeline.benchmarks.record.precision import precision
from pipeline.benchmarks.record.steps import compiled_student, parts, students
from pipeline.benchmarks.scale import scale
from pipeline.benchmarks.training import STEPS, train
from pipeline.benchmarks.world import PHOTOS, VOC_PHOTOS, open_world
from pipeline.machine import Machine
from pipeline.text import fenced, markdown_page, write_markdown
from stages.running.progress import say

SMALL = ["extract.batch=16", "extract.shard=32"]
"""Whole shards and batches of a world of some dozen images."""
FULL = ["extract.batch=2", "extract.shard=2"]
"""The same where the networks are the paper's and a core needs seconds for an image."""

RUNS: Mapping[str, tuple[tuple[str, int, int, tuple[str, ...]], ...]] = {
    "extract": (("demo", 384, 3, ()), (PHOTOS, 2, 3, tuple(FULL))),
    "mine-latent": (("demo", 64, 5, tuple(SMALL)), (PHOTOS, 32, 5, tuple(SMALL))),
    "mine-concepts": (("", 0, 1, ()),),
    "train": (("demo", 96, 3, ()), (PHOTOS, 4, 6, ("train.batch=1",))),
    "cache": ((PHOTOS, 256, 5, ()),),
    "loader": ((VOC_PHOTOS, 64, 5, ()), (PHOTOS, 64, 5, ())),
    "inference": (("", 0, 5, ()),),
    "precision": (("demo", 32, 1, tuple(SMALL)),),
    "pixel-loss": (("", 0, 3, ()),),
    "allocator": (("", 0, 3, ()),),
    "recipes": (("", 0, 5, ()),),
    "growth": (("", 0, 1, ()),),
    "added-photos": (("", 400, 1, ()),),
    "scale": (("", 0, 1, ()),),
    "efficiency": (("", 0, 10, ()),),
    "inference-compiled": (("", 0, 5, ()),),
}
"""Benchmark -> the worlds it runs on: preset, images, rounds, overrides."""

GPU: Mapping[str, tuple[tuple[str, int, int, tuple[str, ...]], ...]] = {
    "students": (("", 0, 3, ()),),
    "kernels": (("", 0, 1, ()),),
    "depthwise": (("", 0, 3, ()),),
    "extract": ((PHOTOS, 512, 2, ("teacher.precision=bf16",)),),
    "loader-processes": ((PHOTOS, 128, 1, ()),),
    "parts": (("", 0, 5, ()),),
    "pixel-loss": (("", 0, 5, ()),),
    "compiled": (("", 0, 3, ()),),
    "precision": ((PHOTOS, 32, 1, ()),),
    "mine-latent": ((PHOTOS, 64, 2, ()),),
    "efficiency": (("", 0, 10, ()),),
}
"""The same for `benchmark gpu`: COCO-Stuff's settings as they are, the most wanted first."""
GPU_SECONDS = 200.0
"""`benchmark gpu` begins nothing more after this time, so that it ends within four minutes."""


def run_suite(name: str, asked: Mapping[str, Any], machine: Machine, markdown: str) -> tuple[str, dict[str, Any]]:
    """Runs a benchmark (`all`, `gpu`: several) on the preset asked for, or on its own worlds; returns text and JSON.

    Raises InputError for a name or a preset that there isn't, and for `gpu` without one.
    """
    suite, device = GPU if name == "gpu" else RUNS, machine.compute.device
    if name not in (*RUNS, "all", "gpu", "gpu-check"):
        raise InputError(f"benchmark {name}{nearest(name, RUNS)}; choose one of {', '.join(RUNS)}, all, gpu, gpu-check")
    if name.startswith("gpu") and device.type != "cuda":
        raise InputError(f"benchmark {name}: torch sees no GPU here; run it where `clip2seg doctor` finds one")
    markdown_page(markdown)
    if name == "gpu-check":
        checked = gpu_check(device)
        if markdown:
            write_markdown(markdown, "benchmark gpu-check", fenced(check_text(checked)))
        return check_text(checked), {"benchmarks": {"benchmark gpu-check": checked}, "failed": checked["failed"]}
    found: dict[str, dict[str, Any]] = {}
    begun, left, failed = time.perf_counter(), list[str](), list[str]()
    for one in suite if name in ("all", "gpu") else (name,):
        if name == "gpu" and time.perf_counter() - begun > GPU_SECONDS:
            left.append(one)
            continue
        for preset, images, rounds, overrides in _worlds(suite[one], asked["preset"]):
            key = " ".join(filter(None, ("benchmark", one, preset, "gpu" if name == "gpu" else "")))
            say(f"{key} ...")
            size, turns = asked["images"] or images, asked["rounds"] or rounds
            with tempfile.TemporaryDirectory(prefix="clip2seg-benchmark-") as folder:
                settings = [*overrides, *asked["set"]]
                try:
                    made = _run(one, preset, size, turns, settings, asked["data"], Path(folder), device, machine)
                except Exception as error:  # of a GPU, its driver, its compiler: the others go on
                    if name != "gpu":
                        raise
                    failed.append(key)
                    say(f"{key}: FAILED, {type(error).__name__}: {error}")
                    continue
            found[key] = made
            if name == "gpu":  # whoever is cut off keeps what was measured
                say(text(made))
            if markdown:
                write_markdown(markdown, key, fenced(text(found[key])))
    if left:
        say(f"benchmark {name}: no time left for {', '.join(left)}")
    return "\n\n".join(text(one) for one in found.values()), {"benchmarks": found, "failed": failed}


def _worlds(
    own: tuple[tuple[str, int, int, tuple[str, ...]], ...], preset: str
) -> tuple[tuple[str, int, int, tuple[str, ...]], ...]:
    """A benchmark's own worlds, or the one that was asked for: with its own settings where it is one of them."""
    if not preset:
        return own
    return tuple(world for world in own if world[0] == preset) or ((preset, own[0][1], own[0][2], ()),)


def _run(
    name: str,
    preset: str,
    images: int,
    rounds: int,
    overrides: list[str],
    data: str,
    folder: Path,
    device: torch.device,
    machine: Machine,
) -> dict[str, Any]:
    alone: dict[str, Callable[[], dict[str, Any]]] = {
        "inference": lambda: inference.inference(device, rounds),
        "inference-compiled": lambda: inference.inference(device, rounds, compiled=True),
        "efficiency": lambda: inference.efficiency(device, rounds),
        "students": lambda: students(device, rounds),
        "parts": lambda: parts(device, rounds),
        "kernels": lambda: kernels(device),
        "depthwise": lambda: depthwise(device, rounds),
        "pixel-loss": lambda: pixel_terms(device, rounds, batch=16 if device.type == "cuda" else 1),
        "compiled": lambda: compiled_student(device, rounds),
        "recipes": lambda: recipes(device, rounds),
        "allocator": lambda: allocator(device, rounds),
        "growth": lambda: growth(device, folder),
        "added-photos": lambda: added(device, folder, images),
        "scale": lambda: scale(device),
        "mine-concepts": lambda: mine_concepts(device, folder, images),
    }
    if name in alone:
        return alone[name]()
    world, workers = open_world(preset, images, overrides, data, folder), machine.compute.workers
    # A ViT-B/16 in the loop takes a core half a minute a step: there the demo's teacher shows the ratio.
    online = not world.drawn or device.type == "cuda"
    worlds: dict[str, Callable[[], dict[str, Any]]] = {
        "extract": lambda: extract(world, rounds, device, workers),
        "mine-latent": lambda: mine_latent(world, rounds, device, workers),
        "train": lambda: train(world, rounds, device, workers, online=online, steps=STEPS if online else 1),
        "loader": lambda: loader(world, rounds, device),
        "cache": lambda: reading(world, rounds, device, dense_views=min(256, images)),
        "precision": lambda: precision(world, device),
        "loader-processes": lambda: loader_processes(world, device),
    }
    return worlds[name]()
