"""The machine that stages run on, as asked for on the command line."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass
from functools import cached_property

from stages.running.compute import Compute, check_flags, resolve

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Names of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: convolutions on CPU otherwise spend most time in page faults.

    Elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(_M_TOP_PAD, 64 * 2**20)


@dataclass(frozen=True)
class Machine:
    """Device and loader processes as asked for on the command line. Raises InputError for impossible ones.

    Flags: where and how fast, never part of a fingerprint.
    """

    device: str = "auto"
    workers: int = -1

    def __post_init__(self) -> None:
        check_flags(self.device, self.workers)

    @cached_property
    def compute(self) -> Compute:
        """What these flags stand for here.

        Also does what only a program of its own may do to its process: tunes glibc's allocator, and makes the GPU of
        this process torch's current one.
        """
        keep_freed_memory()
        found = resolve(self.device, self.workers)
        if found.gpu:
            import torch

            torch.cuda.set_device(found.device)
        return found
