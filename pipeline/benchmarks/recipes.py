"""What a recipe of dense tokens costs over `vanilla`, with the paper's teacher and random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from pipeline.benchmarks.harness import AllocatedBytes, interleaved, ratio, result
from stages.parts.teacher.settings import TeacherConfig
from stages.parts.teacher.teacher import untrained_teacher

MODEL = "ViT-B-16-quickgelu"
SIDE, BATCH = {"cpu": 224, "cuda": 512}, {"cpu": 1, "cuda": 16}


def recipes(device: torch.device, rounds: int, model: str = MODEL) -> dict[str, Any]:
    """Seconds of `encode_views` under each recipe, in turn, and the most memory that its tensors hold at a time."""
    side, many = SIDE[device.type], BATCH[device.type]
    teacher = untrained_teacher(TeacherConfig(model=model, input_size=side, recipe="vanilla"), device)
    each = {name: teacher.with_recipe(name) for name in teacher.recipes()}
    images = torch.randint(0, 256, (many, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images.to(device)
    measured = interleaved({n: partial(t.encode_views, images) for n, t in each.items()}, rounds, device)
    table: dict[str, dict[str, Any]] = {
        name: {"ms a view": round(1e3 * measured.median(name) / many, 2)} for name in each
    }
    aim = {f"{name} / vanilla": measured.ratio(name, "vanilla") for name in each if name != "vanilla"}
    for name, one in each.items():
        with AllocatedBytes() as found:
            one.encode_views(images)
        table[name]["peak MiB"] = round(found.peak / 2**20, 2)
    least = table["vanilla"]["peak MiB"]
    aim |= {f"memory of {n} / vanilla": ratio(table[n]["peak MiB"] / least) for n in each if n != "vanilla"}
    settings = {"teacher": model, "input": side, "batch": many, "rounds": rounds}
    return result("recipes", device, settings, table, aim)
