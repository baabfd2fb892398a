"""Weights & Biases, an optional extra (`pip install wandb`): mirrors what TensorBoard gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from stages.running.progress import rank_and_world

if TYPE_CHECKING:
    from stages.running.board import OnScalar


@contextmanager
def tracked(project: str, name: str, settings: dict[str, Any]) -> Iterator[OnScalar | None]:
    """Gives what sends the points of a curve to a W&B project; None for the project "" and ranks other than 0.

    Credentials come from `wandb login` or WANDB_API_KEY alone. Raises InputError where wandb is missing or refuses.
    """
    if not project or rank_and_world()[0] > 0:
        yield None
        return
    try:
        import wandb
    except ImportError as error:
        raise InputError("--wandb: needs wandb; run `pip install wandb`, or leave the option out") from error
    try:
        run = wandb.init(project=project, name=name, config=settings)
    except Exception as error:  # wandb raises its own usage and network errors
        raise InputError(
            f"--wandb {project}: refused ({type(error).__name__}); see `wandb login`, or set WANDB_MODE=offline"
        ) from error
    try:
        yield lambda curve, value, iteration: run.log({curve: value}, step=iteration)
    finally:
        run.finish()
