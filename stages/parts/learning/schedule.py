"""Learning rate over the iterations (method.md section 5)."""

from __future__ import annotations

from cache.errors import InputError


def lr_factor(iteration: int, iterations: int, warmup: int, power: float) -> float:
    """Factor on the base learning rate at `iteration`, 0 .. iterations - 1.

    Linear warm-up over the first `warmup` iterations, (i + 1) / warmup, so that the first step already learns;
    then poly, (1 - (i - warmup) / (iterations - warmup)) ** power, from 1 towards 0, as mmsegmentation 1.x has it;
    the older repositories let poly run from iteration 0, beneath the warm-up (ours sums to 2 to 8 % more in the paper's
    schedules). Raises InputError when the
    warm-up fills the whole run, as it would then never reach the base rate.
    """
    if not 0 <= warmup < iterations:
        raise InputError(
            f"warmup = {warmup} must be at least 0 and below iterations = {iterations}; shorten the warm-up"
        )
    if iteration < warmup:
        return (iteration + 1) / warmup
    return max(0.0, 1 - (iteration - warmup) / (iterations - warmup)) ** power
