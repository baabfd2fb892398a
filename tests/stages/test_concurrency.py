"""Claims about several processes at one address: they share the work, and the result is that of one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cache.claims import Claim
from cache.location import Location
from cache.store import Artifact
from stages.running.progress import ShardQueue

if TYPE_CHECKING:
    from tests.stages.conftest import Stages

OVERRIDES = ("extract.shard=1", "extract.batch=1")


@pytest.mark.slow
def test_two_extracts_at_once_write_what_one_writes(
    in_processes: Stages, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert in_processes.run("extract", one, *OVERRIDES) == 0, in_processes.said()
    slow = "import stages.extract as e; import time; f = e.encode; e.encode = lambda *a: (time.sleep(0.1), f(*a))[1]"
    pair = [in_processes.start("extract", two, *OVERRIDES, patch=slow) for _ in range(2)]
    for process in pair:
        process.join(120)
        assert process.exitcode == 0, in_processes.said()
    assert contents(two) == contents(one)
    assert in_processes.said().count("extract: 12 views, 15 seen regions") == 3


@pytest.mark.slow
def test_the_second_of_two_trainings_is_refused_with_the_first_ones_number(
    in_processes: Stages, tmp_path: Path
) -> None:
    for stage in ("extract", "mine-latent"):
        assert in_processes.run(stage, tmp_path) == 0, in_processes.said()
    first = in_processes.start("train", tmp_path, "train.iterations=1000")
    claim = None
    while claim is None and first.is_alive():
        claim = next(tmp_path.glob("tiny/train-*/claim.json"), None)
    assert in_processes.run("train", tmp_path, "train.iterations=1000") == 2
    assert f"process {first.pid} on " in in_processes.said() and "is training this run" in in_processes.said()


def artifact(at: Path) -> Artifact:
    return Artifact(Location(str(at)).child("dense-0.zarr"), "dense").create(
        {"stage": "extract", "preset": "x", "dtype": "float16", "seen": list("abcdefgh")}
    )


def commit(made: Artifact, shard: int) -> None:
    made.write(shard, ["a"], {"dense": np.ones((1, 1, 1, 2), np.float16)}, {})


def other(**changes: object) -> bytes:
    """A live claim of another process: this one's parent."""
    parent = {"pid": os.getppid(), "owner": "the parent"}
    return json.dumps(vars(Claim.mine()) | parent | changes).encode()


def test_what_others_hold_is_left_to_the_end_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, done, naps = artifact(tmp_path), [], []
    made.at.put("shards/00000/claim.json", other())

    def nap(_: float) -> None:
        naps.append(list(done))
        if len(naps) == 2:  # the other one finishes meanwhile
            commit(Artifact(made.at, "dense"), 0)

    monkeypatch.setattr("stages.running.progress.time", SimpleNamespace(sleep=nap))
    with ShardQueue([made], 3) as work:
        while work.open():
            for shard in work.claims():
                commit(made, shard)
                done.append(shard)
                work.release(shard)
    assert done == [1, 2]
    assert naps == [[1, 2], [1, 2]]  # it slept only after its own work


def test_a_shard_in_hand_is_not_given_out_again_by_a_waiting_process(tmp_path: Path) -> None:
    """A loader asks for shards ahead of what is written; the claims of one round are disjoint."""
    made = artifact(tmp_path)
    with ShardQueue([made], 4) as work:
        assert work.open()
        assert list(work.claims()) == [0, 1, 2, 3]


def test_the_shards_of_a_process_that_dies_are_taken_over(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    made.at.put("shards/00000/claim.json", other(pid=2**22 + 1))
    with ShardQueue([made], 1) as work:
        assert work.open() and list(work.claims()) == [0]


def test_a_stage_that_fails_gives_its_claims_back(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    with pytest.raises(KeyError), ShardQueue([made], 2) as work:
        work.open()
        next(work.claims())
        raise KeyError
    assert not [n for n in made.at.names() if n.endswith("claim.json")]


def test_what_was_written_between_look_and_claim_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, original = artifact(tmp_path), Artifact.claim

    def late(self: Artifact, shard: int) -> Claim | None:
        commit(Artifact(made.at, "dense"), shard)
        return original(self, shard)

    monkeypatch.setattr(Artifact, "claim", late)
    with ShardQueue([made], 1) as work:
        assert not work.open()
    assert not [n for n in made.at.names() if n.endswith("claim.json")]
