"""Claims about SIGKILL: whenever it falls, the next run ends with the numbers of an undisturbed one.

`CLIP2SEG_KILLS=12 pytest tests/stages/test_kill.py` kills each stage that often at random moments (36 times);
without it 3 times each.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.upkeep.cache_tools import collect, verify

if TYPE_CHECKING:
    from tests.conftest import Tiny
    from tests.stages.conftest import Stages

KILLS = int(os.environ.get("CLIP2SEG_KILLS", "3"))
OVERRIDES = ("extract.shard=6", "extract.batch=2", "train.iterations=8")
MAIN_OUTPUT = {"extract": "tokens", "mine-latent": "latent", "train": "train"}
EVERY_STEP = """
import stages.extract, stages.mine_latent
stages.train.CHECKPOINT_SECONDS = 0.0
stages.extract.DRAFT_SECONDS = stages.mine_latent.DRAFT_SECONDS = -1.0
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["extract", "mine-latent", "train"])
def test_a_stage_killed_at_random_moments_ends_as_if_it_had_not_been(
    stage: str, in_processes: Stages, undisturbed: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    names = ("extract", "mine-latent", "train")
    for name in names[: names.index(stage)]:  # what the stage reads, made without a disturbance
        for place in (tmp_path / "killed", undisturbed):
            assert in_processes.run(name, place, *OVERRIDES) == 0, in_processes.said()
    assert in_processes.run("plan", undisturbed, *OVERRIDES) == 0, in_processes.said()  # all is imported by now
    start = time.perf_counter()
    assert in_processes.run(stage, undisturbed, *OVERRIDES, patch=EVERY_STEP) == 0, in_processes.said()
    seconds, moments, kills = time.perf_counter() - start, random.Random(stage), 0
    while kills < KILLS:
        process = in_processes.start(stage, tmp_path / "killed", *OVERRIDES, patch=EVERY_STEP)
        process.join(moments.uniform(0.1, 1.0) * seconds)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0, in_processes.said()
            for folder in (tmp_path / "killed/tiny").glob(f"{MAIN_OUTPUT[stage]}-*"):
                shutil.rmtree(folder)  # it was quicker than the kill: anew
    assert in_processes.run(stage, tmp_path / "killed", *OVERRIDES, patch=EVERY_STEP) == 0, in_processes.said()
    collect(str(tmp_path / "killed"), "", None, dry=False)  # half-written files of the killed
    killed, wanted = contents(tmp_path / "killed"), contents(undisturbed)
    assert killed.keys() == wanted.keys()
    assert [name for name in wanted if killed[name] != wanted[name]] == []
    assert verify(str(tmp_path / "killed"))["faults"] == []


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("stage", ["train", "extract"])
def test_a_stage_that_is_asked_to_stop_says_one_line(
    stage: str, signal: str, code: int, tiny: Tiny, in_processes: Stages, tmp_path: Path
) -> None:
    patch = f"""
import os, signal
from stages.parts.learning.trainer import Trainer
from stages.parts.teacher.teacher import Teacher
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
def asks(method, when):
    def asked(self, *arguments):
        if when(arguments):
            os.kill(os.getpid(), signal.{signal})
        return method(self, *arguments)
    return asked
Trainer.step = asks(Trainer.step, lambda arguments: arguments[0] == 3)
Teacher.encode_views = asks(Teacher.encode_views, lambda arguments: arguments[0].any())
"""
    place = tmp_path
    if stage == "train":
        tiny.run("mine-latent")
        place = shutil.copytree(tiny.artifacts, tmp_path / "copy", ignore=shutil.ignore_patterns("train-*", "eval-*"))
    assert in_processes.run(stage, place, patch=patch) == code, in_processes.said()
    said = [line for line in in_processes.said().splitlines() if "stopped" in line]
    assert len(said) == 1 and said[0].endswith("run the same command again to go on"), in_processes.said()
    assert "Traceback" not in in_processes.said()
    assert in_processes.run(stage, place) == 0, in_processes.said()
