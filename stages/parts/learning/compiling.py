"""Whether the pixel loss is compiled where nobody said so: on a GPU, where it pays and a compiler works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cache.errors import InputError, first_line
from stages.parts.learning.pixel_sums import pixel_sums

SAVED = 7e-11
"""Seconds that a compiled pixel loss saves on a step, for each of its batch x classes x S x S scores: 81.6 ms became
32.1 ms for 16 x 160 x 512 x 512 on an H200 (docs/performance.md, On a GPU)."""
COST = 25.0
"""Seconds that its compiling takes, there."""
_COMPILERS = ("torch._dynamo.", "torch._inductor.")
"""Modules whose errors torch.compile raises; they have no public name."""


def pays(device: torch.device, scores: int, iterations: int) -> bool:
    """Whether compiling the pixel loss of so many scores a step saves twice what it costs."""
    return device.type == "cuda" and scores * iterations * SAVED > 2 * COST


def compiler_problem(
    device: torch.device, size: tuple[int, int, int], ignored_are_negatives: bool = True, withheld: bool = False
) -> str:
    """Why the compiled pixel loss does not work on this device, in one line; "" where it does.

    Compiles and runs it, forward and backward, for scores of `size` (images, classes, S): a compiler may lack much (for
    Triton a C compiler, a cache folder that it may write), and fail at one kernel and not at another. The steps that
    follow find it compiled, whatever their number of classes; `withheld`: whether they withhold classes.
    """
    images, classes, side = size
    scores = torch.zeros(images, classes, -(-side // 4), -(-side // 4), device=device, requires_grad=True)
    labels = torch.zeros(images, side, side, dtype=torch.int64, device=device)
    try:
        hidden = torch.zeros(images, classes, dtype=torch.bool, device=device) if withheld else None
        sums = pixel_sums(scores, labels, ignored_are_negatives, withheld=hidden, compiled=True)
        torch.autograd.grad(torch.stack(sums).sum(), scores)
    except Exception as error:  # whatever a compiler, its cache or a driver raises: there is training without it
        return first_line(error)
    return ""


@contextmanager
def compiler_explained() -> Iterator[None]:
    """Turns an error of torch.compile in this block into an InputError."""
    try:
        yield
    except Exception as error:
        if not any(f"{kind.__module__}.".startswith(_COMPILERS) for kind in type(error).__mro__):
            raise
        raise InputError(f"torch.compile fails here ({first_line(error)}); --no-compile trains without it") from error
