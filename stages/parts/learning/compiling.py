"""Whether the pixel loss is compiled where nobody said so: on a GPU, where it pays and a compiler works."""

from __future__ import annotations

import torch

SAVED = 7e-11
"""Seconds that a compiled pixel loss saves on a step, for each of its batch x classes x S x S scores: 81.6 ms became
32.1 ms for 16 x 160 x 512 x 512 on an H200 (docs/performance.md, On a GPU)."""
COST = 25.0
"""Seconds that its compiling takes, there."""


def pays(device: torch.device, scores: int, iterations: int) -> bool:
    """Whether compiling the pixel loss of so many scores a step saves twice what it costs."""
    return device.type == "cuda" and scores * iterations * SAVED > 2 * COST


def compiler_problem(device: torch.device) -> str:
    """Why torch.compile does nothing for this device, in one line; "" where it works. Takes seconds at its first call.

    Triton wants a C compiler, which a machine may lack.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:  # whatever a compiler, its cache or a driver raises: there is training without it
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ""
