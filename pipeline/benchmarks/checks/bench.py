"""What every check is given, how it fails, and bounds that say what they bound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pipeline.benchmarks.world import World

CPU = torch.device("cpu")


class Failed(Exception):
    """A bound that isn't kept: what was measured, and the bound."""


class Skipped(Exception):
    """A check that this machine can't run, and why."""


@dataclass(frozen=True)
class Bench:
    """The device under test, and the demo's world with its teacher."""

    device: torch.device
    world: World

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU: what only a GPU can show is skipped elsewhere."""
        return self.device.type == "cuda"


def at_most(value: float, bound: float, what: str) -> str:
    if not value <= bound:
        raise Failed(f"{what} {value:.3g}, bound {bound:g}")
    return f"{what} {value:.2g} (at most {bound:g})"


def at_least(value: float, bound: float, what: str) -> str:
    if not value >= bound:
        raise Failed(f"{what} {value:.6g}, bound {bound:g}")
    return f"{what} {value:.6f} (at least {bound:g})"


@contextmanager
def no_waits(bench: Bench) -> Iterator[None]:
    """Raises where the host would wait for the GPU."""
    if not bench.gpu:
        raise Skipped("needs a GPU")
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
