"""What a student costs beside what every CLIP-at-inference method pays at least (the paper's Table 2)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cache.errors import InputError
from pipeline.benchmarks.harness import in_child, interleaved, peak_mib, result, seconds
from stages.parts.learning.generator import LatentGenerator
from stages.parts.settings import GeneratorConfig
from stages.parts.students import StudentConfig, build_student, count_macs
from stages.parts.students.exporting import OPSET, PhotoStudent, onnx_bytes, onnx_runner, traced
from stages.parts.teacher.models import clip_image_tower

PAPER = {
    "SegFormer-B4": StudentConfig(arch="segformer", encoder="mit_b4"),
    "SegNeXt-B": StudentConfig(arch="segnext", encoder="mscan_b"),
    "SETR-B": StudentConfig(arch="setr", encoder="vit_b16"),
}
CLIP = "CLIP ViT-B/16 alone"
DIM, SIDE, CLASSES = 512, 512, 171
TARGET = 1.6
"""Least speed of SegNeXt-B over CLIP ViT-B/16 alone: the paper's 40.9 over ZegCLIP's 25.6 images/s."""


def efficiency(device: torch.device, rounds: int) -> dict[str, Any]:
    """Parameters, MACs at 512x512 and images/s at batch 1 of the three students and of CLIP ViT-B/16, in one run."""
    models = _models(device)
    rows = _sizes(models)
    images = torch.randn(1, 3, SIDE, SIDE, device=device)
    with torch.inference_mode():
        measured = interleaved({n: _call(m, images) for n, m in models.items()}, rounds, device)
    for name in models:
        rows[name] |= {"images/s": round(1 / measured.median(name), 2)}
    ratios = _speeds({name: measured.ratio(CLIP, name, least=_aim(name)) for name in models if name != CLIP})
    return result("efficiency", device, {"pixels": SIDE, "batch": 1, "rounds": rounds}, rows, ratios)


def inference(
    device: torch.device, rounds: int, *, compiled: bool = False, side: int = SIDE, batch: int = 4
) -> dict[str, Any]:
    """Each student as eager and compiled module, and exported, beside CLIP ViT-B/16 alone; latency and peak memory.

    eager, compiled, CLIP: images to features. photo to labels: with scores of 171 classes, resize and argmax; its
    ONNX form runs under onnxruntime on the CPU.
    """
    models = _models(device)
    rows = _sizes(models) if side == SIDE else {name: {} for name in models}
    images, many = (torch.randn(n, 3, side, side, device=device) for n in (1, batch))
    photo = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, device=device)
    sides: dict[str, Callable[[], Any]] = {}
    equal: dict[str, float] = {}
    text = torch.nn.functional.normalize(torch.randn(CLASSES, DIM), dim=1).to(device)
    with torch.inference_mode():
        for name, model in models.items():
            sides[f"{name}, eager"] = _call(model, images)
            sides[f"{name}, batch {batch}"] = _call(model, many)
            if name == CLIP:
                continue
            whole = PhotoStudent(model, text, torch.zeros(CLASSES)).eval().to(device)
            sides[f"{name}, photo to labels"] = _call(whole, photo)
    for name, model in models.items():
        if name == CLIP:
            continue
        if compiled:  # minutes of a core for each model
            fast = torch.compile(model)
            with torch.inference_mode():
                equal[name] = float((fast(images) - model(images)).abs().max())
            sides[f"{name}, compiled"] = _call(fast, images)
        exported = _exported(model, text)
        if exported is not None:
            picture = photo[0].permute(1, 2, 0).cpu().numpy()
            sides[f"{name}, ONNX photo to labels"] = functools.partial(exported, picture)
    with torch.inference_mode():
        measured = interleaved(sides, rounds, device)
    for name in models:
        row = rows[name]
        row["eager ms"] = round(1e3 * measured.median(f"{name}, eager"), 1)
        row[f"images/s, batch {batch}"] = round(batch / measured.median(f"{name}, batch {batch}"), 2)
        for form in ("compiled", "photo to labels", "ONNX photo to labels"):
            if f"{name}, {form}" in sides:
                row[f"{form} ms"] = round(1e3 * measured.median(f"{name}, {form}"), 1)
        row["peak MiB"] = peak_memory(name, device, side)
    clip = f"{CLIP}, eager"
    ratios = {n: measured.ratio(clip, f"{n}, eager", least=_aim(n)) for n in models if n != CLIP}
    ratios |= {f"{n}, compiled": measured.ratio(clip, f"{n}, compiled") for n in equal}
    settings: dict[str, Any] = {"pixels": side, "rounds": rounds}
    if equal:
        settings["largest difference of compiled features"] = f"{max(equal.values()):.1e}"
    return result("inference", device, settings, rows, _speeds(ratios))


def _models(device: torch.device) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {name: build_student(cfg, DIM).eval().to(device) for name, cfg in PAPER.items()}
    models[CLIP] = clip_image_tower("ViT-B-16-quickgelu", SIDE).eval().to(device)
    return models


def _sizes(models: dict[str, nn.Module]) -> dict[str, dict[str, Any]]:
    generator = sum(p.numel() for p in LatentGenerator(GeneratorConfig(), DIM).parameters())
    rows: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        parameters = sum(p.numel() for p in model.parameters())
        rows[name] = {"params M": round(parameters / 1e6, 2)}
        rows[name]["+ generator"] = round((parameters + (0 if name == CLIP else generator)) / 1e6, 1)
        rows[name]["GMACs"] = round(count_macs(model, SIDE) / 1e9, 1)
    return rows


def _call(model: Callable[..., Any], images: torch.Tensor) -> Callable[[], Any]:
    return lambda: model(images)


def _aim(name: str) -> float | None:
    return TARGET if name == "SegNeXt-B" else None


def _speeds(ratios: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}: times as fast as CLIP alone": value for name, value in ratios.items()}


def _exported(model: nn.Module, text: torch.Tensor) -> Callable[..., Any] | None:
    """The ONNX form on the CPU; None where the export packages are not installed."""
    import copy

    photo = PhotoStudent(copy.deepcopy(model).cpu(), text.cpu(), torch.zeros(CLASSES)).eval()
    try:
        return onnx_runner(onnx_bytes(traced(photo), OPSET, {}))
    except InputError as error:
        if "needs" not in str(error):
            raise
        return None


def peak_memory(name: str, device: torch.device, side: int = SIDE) -> int:
    """MiB that one model adds to a process of its own while it runs once; on a GPU, the most it allocates there."""
    return int(in_child(one_forward, name, str(device), side))


def one_forward(name: str, device_name: str, side: int) -> int:
    """What `peak_memory` runs in the child: MiB beyond what the imports took."""
    device, before = torch.device(device_name), peak_mib()
    model = build_student(PAPER[name], DIM) if name in PAPER else clip_image_tower("ViT-B-16-quickgelu", SIDE)
    model = model.eval().to(device)
    with torch.inference_mode():
        images = torch.randn(1, 3, side, side, device=device)
        seconds(lambda: model(images), device)
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(peak_mib() - before)
