"""Which of a job's processes this one is: torchrun says so in the environment, which is read here and nowhere else."""

from __future__ import annotations

import os


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where torchrun did not start it."""
    world = _told("WORLD_SIZE", 1)
    return (_told("RANK", 0) if world > 1 else 0), world


def local_rank_and_world() -> tuple[int, int]:
    """The same among the processes of this machine."""
    return _told("LOCAL_RANK", 0), _told("LOCAL_WORLD_SIZE", 1)


def _told(name: str, alone: int) -> int:
    return int(os.environ.get(name, alone))
