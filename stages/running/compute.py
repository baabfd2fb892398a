"""Where and how fast a stage runs: the device and the number of loader processes, resolved once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.errors import InputError
from stages.parts.processes import local_rank_and_world

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
MOST_WORKERS = 16


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
    """The device (auto: the GPU, if torch sees one) and loader processes; changes nothing of this process.

    workers -1: one per core but one, at most 16; the processes that torchrun started here share the cores. Raises
    InputError for cuda without a GPU, and where there are more processes than GPUs.
    """
    import torch

    check_flags(device, workers)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu, or look at `clip2seg doctor`")
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    local, here = local_rank_and_world()
    cores = (os.cpu_count() or 2) // here
    count = workers if workers >= 0 else max(1, min(MOST_WORKERS, cores - 1))
    if name == "cpu":
        return Compute(torch.device(name), count)
    gpus = torch.cuda.device_count()
    if local >= gpus:
        raise InputError(f"torchrun starts more processes here than torch sees GPUs; use --nproc-per-node {gpus}")
    return Compute(torch.device(name, local), count)


@contextmanager
def memory_explained(remedy: str) -> Iterator[None]:
    """Turns a full GPU into an InputError that says what to do: `remedy` names the settings to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"the GPU's memory is full: {remedy}") from error
