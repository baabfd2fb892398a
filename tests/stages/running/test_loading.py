"""Claims about loader processes that die: one line, at once, with the reason."""

from __future__ import annotations

import multiprocessing.queues
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import torch
from torch.utils.data import Dataset

from cache.errors import InputError
from stages.running.compute import Compute
from stages.running.loading import loaded, losses_explained

TWO = Compute(torch.device("cpu"), 2)


class Items(Dataset[Any]):
    def __getitem__(self, item: int) -> int:
        return item


class Killed(Items):
    def __getitem__(self, item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


class Unsendable:
    """A batch for which there is no room."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __reduce__(self) -> NoReturn:
        raise RuntimeError(self.said)


def no_room(_: list[int]) -> Unsendable:
    return Unsendable("unable to allocate shared memory(shm) for file </torch_1>:\n No space left on device (28)")


def unknown(_: list[int]) -> Unsendable:
    return Unsendable("cannot pickle 'odd' object")


def ended(batches: Iterator[Any], compute: Compute) -> str:
    with pytest.raises(InputError) as caught, losses_explained(compute):
        list(batches)
    return str(caught.value)


def test_a_full_dev_shm_ends_the_run_with_what_to_do() -> None:
    start = time.perf_counter()
    said = ended(loaded(Items(), [[0], [1], [2]], no_room, TWO), TWO)
    assert said.startswith("/dev/shm is too small for 2 loader processes: it holds ") and "\n" not in said
    assert "MiB" in said and "--shm-size" in said and "--workers 0" in said
    assert time.perf_counter() - start < 30  # torch alone waits for ever


def test_a_killed_loader_process_ends_the_run() -> None:
    said = ended(loaded(Killed(), [[0, 1], [2, 3], [4, 5]], list, TWO), TWO)
    assert said.startswith("a loader process was killed (killed)") and "--workers (now 2)" in said


def test_a_loader_process_that_can_not_send_says_why() -> None:
    assert "cannot pickle 'odd' object" in ended(loaded(Items(), [[0]], unknown, TWO), TWO)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="of another kind"), losses_explained(TWO):
        raise RuntimeError("of another kind")


def test_the_hook_for_what_can_not_be_sent_is_still_pythons() -> None:
    assert callable(multiprocessing.queues.Queue._on_queue_feeder_error)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_are_left_to_the_stage(number: signal.Signals) -> None:
    class Signalled(Items):
        def __getitem__(self, item: int) -> int:
            os.kill(os.getpid(), number)
            return item

    with losses_explained(TWO):
        assert list(loaded(Signalled(), [[0], [1]], list, TWO)) == [[0], [1]]
