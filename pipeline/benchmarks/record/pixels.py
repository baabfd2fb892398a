"""The pixel loss of many classes alone: milliseconds, passes over memory, peak memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.benchmarks.checks.memory import BATCH as PLANNED_BATCH
from pipeline.benchmarks.checks.memory import planned_gib
from pipeline.benchmarks.harness import interleaved, result, seconds
from stages.parts.learning.pixel_sums import forward_sums, pixel_sums
from stages.parts.learning.pixel_sums import parts as parts_of


def pixel_terms(
    device: torch.device, rounds: int, *, batch: int = 16, side: int = 512, classes: int = 171, stride: int = 4
) -> dict[str, Any]:
    """The pixel loss alone, forward and backward, of scores at the student's stride: seconds and peak memory.

    passes: the time over that of reading a float32 map of batch x classes x side x side once from memory. off by:
    relative difference of the gradient from autograd's.
    """
    logits = (3 * torch.randn(batch, classes, side // stride, side // stride, device=device)).requires_grad_()
    labels = torch.randint(0, classes, (batch, side, side), device=device)
    numbers = batch * classes * side * side
    line = torch.zeros(min(numbers, 2**28), device=device)

    def gradient(sums: Tensor) -> Tensor:
        return torch.autograd.grad(sums.sum(), logits)[0]

    sides: dict[str, Callable[[], Tensor]] = {
        "own gradient": lambda: gradient(torch.stack(pixel_sums(logits, labels, True))),
        "own gradient, compiled": lambda: gradient(torch.stack(pixel_sums(logits, labels, True, compiled=True))),
        "autograd with checkpoints": lambda: gradient(_checkpointed(logits, labels)),
        "one pass": lambda: line.sum(),
    }
    rows: dict[str, dict[str, Any]] = {name: {} for name in sides}
    exact = sides["autograd with checkpoints"]()
    for name, call in sides.items():
        rows[name]["first call s"] = round(seconds(call, device), 2)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        found = call()
        if device.type == "cuda":
            rows[name]["peak GiB"] = round((torch.cuda.max_memory_allocated(device) - held) / 2**30, 2)
        if name != "one pass":
            rows[name]["off by"] = f"{float((found - exact).norm() / exact.norm()):.1e}"
    measured = interleaved(sides, rounds, device)
    one = measured.median("one pass") * numbers / len(line)
    for name in sides:
        taken = one if name == "one pass" else measured.median(name)
        rows[name] |= {"ms": round(1e3 * taken, 2), "passes": round(taken / one, 1)}
    ratios = {
        "checkpoints / own gradient": measured.ratio("autograd with checkpoints", "own gradient"),
        "own gradient / compiled": measured.ratio("own gradient", "own gradient, compiled"),
    }
    about = {
        "batch": batch,
        "classes": classes,
        "pixels": side,
        "stride": stride,
        "rounds": rounds,
        "a map, GiB": round(4 * numbers / 2**30, 2),
        f"peak of batch {PLANNED_BATCH} on a GPU, computed, GiB": round(planned_gib(PLANNED_BATCH, classes, side), 2),
    }
    return result("pixel loss", device, about, rows, ratios)


def _checkpointed(logits: Tensor, labels: Tensor) -> Tensor:
    """The same sums [3] by autograd, which computes each image's maps again in its backward pass."""

    def sums(scores: Tensor, wanted: Tensor) -> Tensor:
        found = [torch.stack(forward_sums(part)[:3]) for part in parts_of(scores, wanted, True)]
        return torch.stack(found).sum(dim=0)

    each = [checkpoint(sums, logits[i : i + 1], labels[i : i + 1], use_reentrant=False) for i in range(len(logits))]
    return torch.stack(each).sum(dim=0)
