"""What the pixel loss takes of a GPU's memory: computed without one, and measured where there is one."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.benchmarks.checks.bench import Bench, Failed, Skipped
from pipeline.benchmarks.harness import AllocatedBytes
from stages.parts.learning.pixel_sums import _PixelSums, pixel_sums

BATCH, CLASSES, SIDE, STRIDE = 16, 171, 512, 4
"""COCO-Stuff's classes under the paper's crops and batch, at the stride of SegFormer's scores."""
WITHIN = 0.25
"""Most relative difference of measured and computed memory: an allocator rounds up, and leaves gaps."""


def planned_gib(batch: int = BATCH, classes: int = CLASSES, side: int = SIDE) -> float:
    """Most memory [GiB] of the pixel loss, forward and backward, eager, in float32: scores, labels and gradient too.

    Computed from the sizes and lifetimes of tensors that pretend to be a GPU's; nothing is allocated.
    """
    kept = SimpleNamespace(saved_tensors=())
    kept.save_for_backward = lambda *tensors: setattr(kept, "saved_tensors", tensors)
    with FakeTensorMode(), AllocatedBytes() as found:
        logits = torch.empty(batch, classes, side // STRIDE, side // STRIDE, device="cuda")
        labels = torch.zeros(batch, side, side, dtype=torch.long, device="cuda")
        # autograd's engine needs a real GPU, so its two functions are called by hand
        _PixelSums.backward(kept, *_PixelSums.forward(kept, logits, labels, True, False, None))
    return found.peak / 2**30


def pixel_memory(bench: Bench) -> str:
    """Peak memory of the pixel loss at the paper's size against what is computed."""
    if not bench.gpu:
        raise Skipped("needs a GPU")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    held = torch.cuda.memory_allocated(bench.device)
    logits = torch.randn(BATCH, CLASSES, SIDE // STRIDE, SIDE // STRIDE, device=bench.device, requires_grad=True)
    labels = torch.randint(0, CLASSES, (BATCH, SIDE, SIDE), device=bench.device)
    torch.autograd.grad(torch.stack(pixel_sums(logits, labels, True)).sum(), logits)
    measured = (torch.cuda.max_memory_allocated(bench.device) - held) / 2**30
    text = f"{measured:.2f} GiB, computed {planned_gib():.2f}"
    if abs(measured / planned_gib() - 1) > WITHIN:
        raise Failed(f"{text}, bound {WITHIN:.0%} apart")
    return text
