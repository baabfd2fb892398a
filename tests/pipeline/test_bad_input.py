"""The bad-input suite: each malformed input ends in a working run or in one line, never in a traceback.

The cases are in bad_input_cases.py; docs/bad-input.md is their table, written by bad_input_page.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_type_hints

import numpy as np
import pytest
import typer

from pipeline.cli import app
from tests.pipeline.bad_input import REFUSED, World, command_of, console, grey, run_case
from tests.pipeline.bad_input_cases import CASES
from tests.pipeline.bad_input_page import PAGE, rows_of

if TYPE_CHECKING:
    from tests.conftest import Tiny


def leaves(app: typer.Typer, words: tuple[str, ...] = ()) -> dict[str, Callable[..., None]]:
    """The function of every command of the console script, by the command's words."""
    own: dict[str, Callable[..., None]] = {
        " ".join((*words, info.name or str(info.callback.__name__))): info.callback for info in app.registered_commands
    }
    groups: list[dict[str, Callable[..., None]]] = [  # a group without a name is a panel of --help
        leaves(group.typer_instance, (*words, *([group.name] if isinstance(group.name, str) else ())))
        for group in app.registered_groups
    ]
    return {k.replace("_", "-"): v for part in (own, *groups) for k, v in part.items()}


def number_options(function: Callable[..., None]) -> list[str]:
    """Options of a command that take a number."""
    hints = [get_args(hint) for hint in get_type_hints(function, include_extras=True).values()]
    found = [(hint[0], info.param_decls[0]) for hint in hints for info in hint[1:] if info.param_decls]
    return [option for kind, option in found if kind in (int, float) and option.startswith("--")]


COMMANDS = leaves(app)


@pytest.fixture(scope="module")
def finished(tiny: Tiny) -> Tiny:
    tiny.run("eval")
    return tiny


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_a_result_or_in_one_line(case: str, finished: Tiny, tmp_path: Path) -> None:
    expected, spoil = CASES[case]
    world = World(finished, tmp_path)
    outcome = run_case(world, spoil(world), expected)
    assert not outcome.complaint, f"{outcome.complaint}: {outcome.line}"


SPOILED: dict[str, Callable[[World], object]] = {
    "a photo of zeros": lambda w: w.write(w.photo, bytes(w.photo.stat().st_size)),
    "a photo that is gone": lambda w: w.photo.unlink(),
    "a mask of another size": lambda w: w.image(np.zeros((9, 9), np.uint8), w.mask),
    "an edited mask": lambda w: w.image(grey(w) * 0 + 1, w.mask),
}


@pytest.mark.parametrize("what", SPOILED)
def test_training_says_the_same_of_a_bad_sample_with_loader_processes_as_without(
    what: str, finished: Tiny, tmp_path: Path
) -> None:
    lines = []
    for workers in ("0", "2"):
        world = World(finished, tmp_path / workers)
        made = list(world.stage("train", "--set", "train.seed=9", fresh=False))
        made[made.index("--workers") + 1] = workers
        SPOILED[what](world)
        outcome = run_case(world, tuple(made), REFUSED)
        assert not outcome.complaint, f"{outcome.complaint}: {outcome.line}"
        lines.append(outcome.line)
    assert lines[0] == lines[1] and "train01" in lines[0] and "BadSample" not in lines[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_what_is_no_option_and_text_for_a_number(name: str, tmp_path: Path) -> None:
    for wrong in (["--no-such-option"], *([option, "many"] for option in number_options(COMMANDS[name]))):
        code, out, err = console([*name.split(), *wrong], tmp_path)
        assert code == REFUSED and not out and err.startswith("error: ") and err.count("\n") == 1, f"{wrong}: {err}"
        assert wrong[0] in err


def test_the_page_is_the_table_of_these_cases() -> None:
    """How each ended was written by a run; that it still ends so is the test above."""
    words = {0: "worked", 1: "reported", 2: "refused"}
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    remedy = "run `python -m tests.pipeline.bad_input_page`"
    assert {case: word for case, _, word in rows} == {c: words[expected] for c, (expected, _) in CASES.items()}, remedy
    assert f"{len(CASES)} tried" in PAGE.read_text(encoding="utf-8") and len(CASES) >= 60
    groups = {"benchmark"}  # its measurements take no files
    shown = {command for _, command, _ in rows}
    wanted = {name if name.split()[0] not in groups else name.split()[0] for name in COMMANDS}
    assert wanted <= shown | {command.split()[0] for command in shown if command.split()[0] in groups}


def test_the_suite_would_notice_a_traceback_a_wrong_code_and_a_changed_artifact(
    finished: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(finished, tmp_path)
    assert run_case(world, world.planned(), REFUSED).complaint == "exit code 0 where 2 is right"

    def careless(*_: object, **__: object) -> None:
        world.student.unlink()
        raise KeyError("x")

    monkeypatch.setattr("pipeline.plan.load_config", careless)
    outcome = run_case(world, world.planned(), REFUSED)
    assert "a traceback" in outcome.complaint and "an artifact was changed" in outcome.complaint
    assert outcome.word == "crashed" and command_of(("data", "prepare", "voc", "x")) == "data prepare voc"
