"""Which kernels a training step is made of, and what a depthwise convolution costs in each memory format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from pipeline.benchmarks.harness import interleaved, result
from pipeline.benchmarks.record.steps import STUDENTS, at_full_size
from stages.parts.learning.batches import Batch
from stages.parts.learning.trainer import Trainer

SHOWN = 14
"""Kernels shown of a step."""
SHAPES = ((256, 128, 3, 3), (512, 64, 3, 3), (1280, 32, 3, 3), (64, 128, 5, 5), (64, 128, 1, 21), (64, 128, 21, 1))
"""Channels, side of the map, kernel: SegFormer-B4's feed-forward networks and SegNeXt-B's attention at 512 pixels."""
FORMATS: Mapping[str, tuple[torch.memory_format, torch.dtype]] = {
    "channels-last bf16": (torch.channels_last, torch.bfloat16),
    "row-major bf16": (torch.contiguous_format, torch.bfloat16),
    "channels-last fp16": (torch.channels_last, torch.float16),
    "channels-last fp32": (torch.channels_last, torch.float32),
}


def kernels(
    device: torch.device,
    *,
    batch: int = 16,
    side: int = 512,
    presets: Mapping[str, str] = STUDENTS,
    shown: int = SHOWN,
) -> dict[str, Any]:
    """The kernels of one step of each student, the longest first: milliseconds, calls, share of all kernels' time.

    On a processor, torch's operations in their place.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, preset in presets.items():
        trainer, made = at_full_size(preset, device, batch, side)
        for _ in range(2):
            trainer.step(0, made)
        found = _profiled(trainer, made, device)
        whole = sum(taken for _, taken, _ in found)
        rows[name] = {"ms": round(whole, 1), "calls": sum(calls for *_, calls in found), "share": 1.0}
        for kernel, taken, calls in found[:shown]:
            row = {"ms": round(taken, 2), "calls": calls, "share": round(taken / whole, 3)}
            rows[f"{name}: {_short(kernel)}"] = row
        del trainer, made
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return result("kernels of a step", device, {"batch": batch, "pixels": side}, rows, {})


def _profiled(trainer: Trainer, batch: Batch, device: torch.device) -> list[tuple[str, float, int]]:
    """(name, milliseconds, calls) of every kernel of one step, the longest first."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        trainer.step(0, batch)
        if cuda:
            torch.cuda.synchronize(device)
    wanted = "CUDA" if cuda else "CPU"
    found = [
        (event.key, (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3, event.count)
        for event in profiled.key_averages()
        if event.device_type.name == wanted
    ]
    return sorted(found, key=lambda row: -row[1])


def _short(kernel: str, length: int = 72) -> str:
    """A kernel's name without its return type, cut to `length`."""
    name = kernel.removeprefix("void ")
    return name if len(name) <= length else f"{name[: length - 3]}..."


def depthwise(
    device: torch.device, rounds: int, *, batch: int = 16, shapes: Sequence[tuple[int, int, int, int]] = SHAPES
) -> dict[str, Any]:
    """Milliseconds of depthwise convolutions, forward and backward, by memory format and precision."""
    rows: dict[str, dict[str, Any]] = {}
    ratios: dict[str, Any] = {}
    for channels, side, height, width in shapes:
        sides = {
            name: _convolution((batch, channels, side, side), (height, width), layout, dtype, device)
            for name, (layout, dtype) in FORMATS.items()
        }
        measured = interleaved(sides, rounds, device)
        name = f"{height}x{width}, {channels} channels at {side}x{side}"
        rows[name] = {form: round(1e3 * measured.median(form), 2) for form in sides}
        first, second = list(sides)[:2]
        ratios[f"{name}: {first} / {second}"] = measured.ratio(first, second)
    return result("depthwise", device, {"batch": batch, "rounds": rounds, "unit": "ms"}, rows, ratios)


def _convolution(
    size: tuple[int, int, int, int],
    kernel: tuple[int, int],
    layout: torch.memory_format,
    dtype: torch.dtype,
    device: torch.device,
) -> Callable[[], Any]:
    channels = size[1]
    x = torch.randn(size, device=device, dtype=dtype).to(memory_format=layout).requires_grad_()
    weight = torch.randn(channels, 1, *kernel, device=device, dtype=dtype).to(memory_format=layout).requires_grad_()
    padding = (kernel[0] // 2, kernel[1] // 2)

    def call(gradient: Tensor) -> tuple[Tensor, ...]:
        y = functional.conv2d(x, weight, padding=padding, groups=channels)
        return torch.autograd.grad(y, (x, weight), gradient)

    return functools.partial(call, torch.randn_like(x))
