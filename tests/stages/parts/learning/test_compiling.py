"""When the pixel loss is compiled unasked, and what happens where there is no compiler."""

from __future__ import annotations

import pytest
import torch

from stages.parts.learning.compiling import compiler_problem, pays
from stages.parts.learning.learner import Learner
from tests.conftest import Tiny

GPU = torch.device("cuda")


def test_compiling_pays_for_a_long_training_on_large_maps_of_many_classes_on_a_gpu() -> None:
    coco_stuff = 16 * 156 * 512 * 512
    assert pays(GPU, coco_stuff, 80_000) and not pays(GPU, coco_stuff, 100)
    assert not pays(GPU, 12 * 15 * 96 * 96, 700) and not pays(torch.device("cpu"), coco_stuff, 80_000)


def test_a_compiler_that_fails_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(function: object) -> None:
        raise RuntimeError("Failed to find C compiler\nPlease specify via CC")

    monkeypatch.setattr(torch, "compile", missing)
    assert compiler_problem(torch.device("cpu")) == "Failed to find C compiler"


@pytest.mark.parametrize(("problem", "students"), [("", [False]), ("no C compiler", [])])
def test_training_compiles_the_loss_where_it_pays_and_says_so(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: str,
    students: list[bool],
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(Learner, "compile_parts", lambda self, *, student: asked.append(student))
    monkeypatch.setattr("stages.train.pays", lambda *_: True)
    monkeypatch.setattr("stages.train.compiler_problem", lambda _: problem)
    tiny.run("train", "train.iterations=3", f"train.seed={2001 + len(problem)}")
    assert asked == students  # the loss is compiled without the student, or nothing is
    assert (problem or "--no-compile") in capsys.readouterr().err
