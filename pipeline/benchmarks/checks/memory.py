"""What the pixel loss takes of a GPU's memory: computed without one, and measured where there is one."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.benchmarks.checks.bench import Bench, Failed, Skipped
from stages.parts.learning.pixel_sums import _PixelSums, pixel_sums

BATCH, CLASSES, SIDE, STRIDE = 16, 171, 512, 4
"""COCO-Stuff's classes under the paper's crops and batch, at the stride of SegFormer's scores."""
WITHIN = 0.25
"""Most relative difference of measured and computed memory: an allocator rounds up, and leaves gaps."""


class _Allocated(TorchDispatchMode):
    """Bytes of the storages that operations in the block touch, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known[storage] = True
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return out

    def _gone(self, size: int) -> None:
        self.now -= size


def planned_gib(batch: int = BATCH, classes: int = CLASSES, side: int = SIDE) -> float:
    """Most memory [GiB] of the pixel loss, forward and backward, eager, in float32: scores, labels and gradient too.

    Computed from the sizes and lifetimes of tensors that pretend to be a GPU's; nothing is allocated.
    """
    kept = SimpleNamespace(saved_tensors=())
    kept.save_for_backward = lambda *tensors: setattr(kept, "saved_tensors", tensors)
    with FakeTensorMode():
        logits = torch.empty(batch, classes, side // STRIDE, side // STRIDE, device="cuda")
        labels = torch.zeros(batch, side, side, dtype=torch.long, device="cuda")
        with _Allocated() as found:  # autograd's engine needs a real GPU, so its two functions are called by hand
            _PixelSums.backward(kept, *_PixelSums.forward(kept, logits, labels, True, False))
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
