"""Commands that the program suggests are those for the configuration that was typed, and the shell finds them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from cache.location import StoreError
from pipeline import run
from pipeline.invocation import Invocation, program
from pipeline.machine import Machine
from pipeline.plan import Plan

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_a_stage_suggests_commands_with_all_that_was_typed(tiny: Tiny, tmp_path: Path) -> None:
    plan = Plan.open(str(tiny.preset), ["train.seed=3"], str(tmp_path / "my art"))
    with pytest.raises(InputError, match="nothing there") as raised:
        run.train(plan, Machine("cpu", 0))
    (hint,) = str(raised.value).split("`")[1::2]
    assert shlex.split(hint)[1:] == [
        "plan", str(tiny.preset), "--artifacts", str(tmp_path / "my art"), "--set", "train.seed=3"
    ]  # fmt: skip


def test_only_suggestions_without_a_preset_are_completed_and_the_error_keeps_its_kind() -> None:
    typed = Invocation("voc", data="/data/VOC 2012")
    with pytest.raises(StoreError) as raised, typed.suggestions():
        raise StoreError("x: damaged; run `clip2seg mine-latent` again, or `clip2seg train coco`, or `clip2seg doctor`")
    assert str(raised.value) == (
        "x: damaged; run `clip2seg mine-latent voc --data '/data/VOC 2012'` again, or `clip2seg train coco`, or "
        "`clip2seg doctor`"
    )


@pytest.mark.parametrize(
    ("typed", "on_path", "said"),
    [
        (".venv/bin/clip2seg", None, ".venv/bin/clip2seg"),
        ("/opt/env/bin/clip2seg", "/opt/env/bin/clip2seg", "clip2seg"),
        ("/opt/env/bin/pytest", None, "clip2seg"),
    ],
)
def test_the_program_is_named_so_that_the_shell_finds_it(
    typed: str, on_path: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [typed, "demo"])
    monkeypatch.setattr("shutil.which", lambda name: on_path)
    assert program() == said and Invocation("demo").command("plan").split()[0] == said
