"""Claims about loader processes that die: one line, at once, with the reason.

Each death happens below a process of its own: what Python's queues leave behind must not reach other tests.
"""

from __future__ import annotations

import multiprocessing.queues
import os
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

from stages.running.compute import Compute
from stages.running.loading import losses_explained

CODE = """
import multiprocessing, os, pathlib, signal, torch
multiprocessing.set_start_method("fork", force=True)
from cache.errors import InputError
from stages.running.compute import Compute
from stages.running.loading import loaded, losses_explained

class Items(torch.utils.data.Dataset):
    def __getitem__(self, item):
        if {number} and item == 3:
            os.kill(os.getpid(), {number})
        return item

class Unsendable:
    def __reduce__(self):
        raise RuntimeError({unsendable!r})

def collate(items):
    return Unsendable() if {unsendable!r} else items

compute = Compute(torch.device("cpu"), 2)
try:
    with losses_explained(compute):
        said = str(list(loaded(Items(), [[0, 1], [2, 3], [4, 5]], collate, compute)))
except InputError as error:
    said = f"refused: {{error}}"
pathlib.Path({out!r}).write_text(said)
os._exit(0)
"""
NO_ROOM = "unable to allocate shared memory(shm) for file </torch_1>:\\n No space left on device (28)"
SECONDS = 30
"""torch alone waits for ever where a batch can't be sent."""


def outcome(forkserver: ForkServerContext, folder: Path, number: int = 0, unsendable: str = "") -> str:
    """What a stage is told whose loader process gets a signal, or can't send its batch."""
    code = CODE.format(number=number, unsendable=unsendable, out=str(folder / "said"))
    process = forkserver.Process(target=exec, args=(code, {"__name__": "loading_test"}))
    start = time.monotonic()
    process.start()
    process.join(SECONDS)
    process.kill()
    assert time.monotonic() - start < SECONDS
    return (folder / "said").read_text()


def test_a_full_dev_shm_ends_the_run_with_what_to_do(forkserver: ForkServerContext, tmp_path: Path) -> None:
    said = outcome(forkserver, tmp_path, unsendable=NO_ROOM)
    assert said.startswith("refused: /dev/shm is too small for 2 loader processes: it holds ") and "\n" not in said
    assert "MiB" in said and "--shm-size" in said and "--workers 0" in said


def test_a_killed_loader_process_ends_the_run(forkserver: ForkServerContext, tmp_path: Path) -> None:
    said = outcome(forkserver, tmp_path, number=9)
    assert said.startswith("refused: a loader process was killed (killed)") and "--workers (now 2)" in said


def test_a_loader_process_that_can_not_send_says_why(forkserver: ForkServerContext, tmp_path: Path) -> None:
    assert "cannot pickle 'odd' object" in outcome(forkserver, tmp_path, unsendable="cannot pickle 'odd' object")


@pytest.mark.parametrize("number", [2, 15])
def test_signals_to_the_whole_group_are_left_to_the_stage(
    forkserver: ForkServerContext, tmp_path: Path, number: int
) -> None:
    assert outcome(forkserver, tmp_path, number=number) == "[[0, 1], [2, 3], [4, 5]]"


LEFT = """
import multiprocessing, pathlib, torch
multiprocessing.set_start_method("fork", force=True)
from stages.running.compute import Compute
from stages.running.loading import loaded

class Items(torch.utils.data.Dataset):
    def __getitem__(self, item):
        return item

kept = loaded(Items(), [[i] for i in range(100)], list, Compute(torch.device("cpu"), 1))
next(kept)
(worker,) = multiprocessing.active_children()
pathlib.Path({out!r}).write_text(str(worker.pid))
raise SystemExit("unforeseen")
"""


def test_an_unforeseen_error_ends_the_process_although_loaders_are_left(
    forkserver: ForkServerContext, tmp_path: Path
) -> None:
    code = LEFT.format(out=str(tmp_path / "worker"))
    process = forkserver.Process(target=exec, args=(code, {"__name__": "loading_test"}))
    process.start()
    process.join(SECONDS)
    ended = process.exitcode
    process.kill()
    assert ended == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "worker").read_text()), 0)


def test_other_errors_pass() -> None:
    with (
        pytest.raises(RuntimeError, match="of another kind"),
        losses_explained(Compute(torch.device("cpu"), 2)),
    ):
        raise RuntimeError("of another kind")


def test_the_hook_for_what_can_not_be_sent_is_still_pythons() -> None:
    assert callable(multiprocessing.queues.Queue._on_queue_feeder_error)  # type: ignore[attr-defined]
