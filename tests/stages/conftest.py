"""Shared by the tests of stages as processes: `clip2seg` in processes that can be killed, quick to start."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Tiny

CODE = """
import os, sys
for stream in (1, 2):
    os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
os.environ |= {env!r}
import stages.train, stages.running.progress
stages.train.LOG_EVERY, stages.running.progress.WAIT_SECONDS = 1, 0.2
{patch}
sys.argv = ["clip2seg", *{argv!r}]
from pipeline.cli import main
main()
"""


class Stages:
    """Starts `clip2seg STAGE` on the tiny preset in processes of their own; `log` gathers what they say."""

    def __init__(self, tiny: Tiny, context: ForkServerContext, log: Path) -> None:
        self.tiny, self.context, self.log = tiny, context, log
        self.started: list[ForkServerProcess] = []

    def start(
        self,
        stage: str,
        artifacts: Path | str,
        *overrides: str,
        flags: tuple[str, ...] = (),
        patch: str = "",
        env: dict[str, str] | None = None,
    ) -> ForkServerProcess:
        """A process that runs a stage; `patch`: Python that it runs before."""
        settings = [part for override in overrides for part in ("--set", override)]
        argv = [stage, str(self.tiny.preset), "--artifacts", str(artifacts)]
        argv += ["--device", "cpu"] if stage != "plan" else []
        argv += ["--workers", "0"] if stage not in ("plan", "mine-concepts") else []
        code = CODE.format(log=str(self.log), env=env or {}, patch=patch, argv=[*argv, *settings, *flags])
        # ruff's S102 is about text from users; this text is ours.
        process = self.context.Process(target=exec, args=(code, {}))
        process.start()
        self.started.append(process)
        return process

    def run(self, stage: str, artifacts: Path | str, *overrides: str, **options: object) -> int:
        """Runs a stage to its end; returns the exit code."""
        process = self.start(stage, artifacts, *overrides, **options)  # type: ignore[arg-type]
        process.join(120)
        assert process.exitcode is not None, self.said()
        return process.exitcode

    def said(self) -> str:
        """What all processes wrote to stdout and stderr."""
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Processes forked from one that has everything imported and nothing begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["open_clip", "stages.extract", "stages.mine_latent", "stages.train", "pipeline.cli"]
    )
    return context


@pytest.fixture
def in_processes(
    tiny: Tiny, forkserver: ForkServerContext, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stages]:
    stages = Stages(tiny, forkserver, tmp_path_factory.mktemp("said") / "log.txt")
    yield stages
    for process in stages.started:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The numbers under an artifacts folder: every object but those that hold times."""
    timed = ("commit.json", "complete.json", "report.html", "tensorboard")

    def read(folder: Path) -> dict[str, bytes]:
        files = (f for f in folder.rglob("*") if f.is_file())
        kept = (f for f in files if not set(timed) & set(f.parts))
        return {str(f.relative_to(folder)): f.read_bytes() for f in kept}

    return read
