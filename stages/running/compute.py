"""Where and how fast a stage runs: the device and the number of loader processes, resolved once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loky import cpu_count

from cache.errors import InputError, first_line
from stages.parts.processes import local_rank_and_world

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
MOST_WORKERS = 16
FREE_IT = "free it, install a torch that was built for it, or use --device cpu"
"""What helps where a GPU can't compute."""
_FULL = re.compile(r"(?i)\bcuda.*out of memory|_ALLOC_FAILED", re.DOTALL)
"""How drivers, cuBLAS, cuDNN and faiss say that a GPU is full; torch's own allocator has an error of its own."""


@dataclass(frozen=True)
class Compute:
    """The device a stage computes on, and how many processes decode images for it (0: the stage's own process)."""

    device: torch.device
    workers: int = 0
    compiled: bool | None = None
    """Whether student and pixel loss are compiled (torch.compile) for training; None: the pixel loss, where it pays."""

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"


def check_flags(device: str, workers: int) -> None:
    """Raises InputError for a device or number of workers that is none. Needs no torch."""
    if device not in DEVICES:
        raise InputError(f"--device {device}: choose auto, cpu or cuda")
    if workers < -1:
        raise InputError(f"--workers {workers}: give 0 or more, or -1 for one per core but one")


def resolve(device: str = "auto", workers: int = -1) -> Compute:
    """The device (auto: the GPU, if torch sees one) and loader processes.

    Of this process it wakes the GPU, and keeps torch to no more threads than the cores that it may use.

    workers -1: one per core but one, at most 16; the processes that torchrun started here share the cores. Raises
    InputError for cuda without a GPU, for a GPU that can't compute, and where there are more processes than GPUs.
    """
    import torch

    check_flags(device, workers)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu, or look at `clip2seg doctor`")
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    (local, here), usable = local_rank_and_world(), cores()
    count = workers if workers >= 0 else max(1, min(MOST_WORKERS, usable // here - 1))
    # torch counts the machine's cores; more threads than a container may use stand still most of the time.
    torch.set_num_threads(min(torch.get_num_threads(), usable))
    if name == "cpu":
        return Compute(torch.device(name), count)
    gpus = torch.cuda.device_count()
    if local >= gpus:
        raise InputError(f"torchrun starts more processes here than torch sees GPUs; use --nproc-per-node {gpus}")
    found = torch.device(name, local)
    if problem := gpu_problem(found):
        raise InputError(f"{found}: this GPU can't compute ({problem}); {FREE_IT}")
    return Compute(found, count)


def cores() -> int:
    """Cores that this process may use: those that a scheduler, `taskset` or a container's limit leaves it."""
    return int(cpu_count())


def gpu_problem(device: torch.device) -> str:
    """Why a GPU that torch sees can't compute, in one line; "" where it can.

    torch may have no code for so old or so new a GPU, and other programs may fill it or keep it for themselves: all
    that shows at the first kernel, so one is run.
    """
    import torch

    try:
        torch.ones(2, device=device).add_(1).sum().item()
    except RuntimeError as error:
        return first_line(error)
    return ""


@contextmanager
def memory_explained(remedy: str) -> Iterator[None]:
    """Turns a full GPU into an InputError that says what to do: `remedy` names the settings to lower."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _FULL.search(str(error)):
            raise
        raise InputError(f"the GPU's memory is full: {remedy}") from error
