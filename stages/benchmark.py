"""benchmark: what a student costs beside what every CLIP-at-inference method pays at least (the paper's Table 2)."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from stages.parts.generator import LatentGenerator
from stages.parts.settings import GeneratorConfig
from stages.parts.students import StudentConfig, build_student, count_macs
from stages.parts.teacher import clip_image_tower

PAPER = {
    "SegFormer-B4": StudentConfig(arch="segformer", encoder="mit_b4"),
    "SegNeXt-B": StudentConfig(arch="segnext", encoder="mscan_b"),
    "SETR-B": StudentConfig(arch="setr", encoder="vit_b16"),
}
DIM, SIDE = 512, 512


def efficiency(device: torch.device, rounds: int) -> dict[str, Any]:
    """Parameters, MACs at 512x512 and images/s at batch 1 of the three students and of CLIP ViT-B/16, in one run.

    The models take turns, `rounds` times, so that a busy machine slows all of them alike; the median counts.
    """
    generator = sum(p.numel() for p in LatentGenerator(GeneratorConfig(), DIM).parameters())
    rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[torch.Tensor], Any]] = {}
    for name, cfg in PAPER.items():
        student = build_student(cfg, DIM).eval().to(device)
        parameters = sum(p.numel() for p in student.parameters())
        rows[name] = {
            "parameters_M": round(parameters / 1e6, 2),
            "training_parameters_M": round((parameters + generator) / 1e6, 1),
            "GMACs": round(count_macs(student, SIDE) / 1e9, 1),
        }
        steps[name] = student
    tower = clip_image_tower("ViT-B-16-quickgelu", SIDE).eval().to(device)
    rows["CLIP ViT-B/16 alone"] = {"parameters_M": round(sum(p.numel() for p in tower.parameters()) / 1e6, 2)}
    steps["CLIP ViT-B/16 alone"] = tower
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    images = torch.randn(1, 3, SIDE, SIDE, device=device)
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, step in steps.items():
                once = _timed(step, images, device)
                if turn:  # the first turn warms up
                    seconds[name].append(once)
    for name, taken in seconds.items():
        rows[name]["images_per_second"] = round(1 / statistics.median(taken), 2)
    clip = rows["CLIP ViT-B/16 alone"]["images_per_second"]
    for row in rows.values():
        row["times_clip"] = round(row["images_per_second"] / clip, 2)
    return {"rows": rows, "machine": machine(device), "rounds": rounds}


def _timed(step: Callable[[torch.Tensor], Any], images: torch.Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def machine(device: torch.device) -> str:
    """The machine, in words."""
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{platform.machine()}, {what}, torch {torch.__version__}"
