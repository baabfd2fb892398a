"""When the pixel loss is compiled unasked, and what happens where there is no compiler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.exc import InductorError

from cache.errors import InputError
from stages.parts.learning import pixel_sums as module
from stages.parts.learning.compiling import compiler_explained, compiler_problem, pays
from stages.parts.learning.learner import Learner
from tests.conftest import Tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    """Nothing that was compiled before, or is compiled here, is known elsewhere."""
    module._kernels.cache_clear()
    yield
    module._kernels.cache_clear()
    torch._dynamo.reset()


def test_compiling_pays_for_a_long_training_on_large_maps_of_many_classes_on_a_gpu() -> None:
    coco_stuff = 16 * 156 * 512 * 512
    assert pays(GPU, coco_stuff, 80_000) and not pays(GPU, coco_stuff, 100)
    assert not pays(GPU, 12 * 15 * 96 * 96, 700) and not pays(CPU, coco_stuff, 80_000)


@pytest.mark.usefixtures("compiled_anew")
def test_a_compiler_that_fails_at_a_kernel_of_the_loss_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def works(function: object, **_: object) -> object:
        return lambda part, *more: module.forward_sums(part) if not more else fails()

    def fails() -> None:
        raise RuntimeError("Failed to find C compiler\nPlease specify via CC")

    monkeypatch.setattr(torch, "compile", works)
    assert compiler_problem(CPU, (2, 3, 16)) == "Failed to find C compiler"  # at the gradient, not before


@pytest.mark.usefixtures("compiled_anew")
def test_what_the_trial_compiled_serves_the_steps_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, compile_it = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compile_it(function, backend=counted, dynamic=True))
    assert compiler_problem(CPU, (2, 3, 16)) == "" and counted.frame_count == 2
    for classes in (4, 7):
        scores = torch.randn(3, classes, 4, 4, requires_grad=True)
        sums = module.pixel_sums(scores, torch.zeros(3, 16, 16).long(), True, compiled=True)
        torch.stack(sums).sum().backward()
    assert counted.frame_count == 2


def test_an_error_of_the_compiler_is_one_line_and_others_stay() -> None:
    said = r"^torch.compile fails here \(RuntimeError: no compiler\); --no-compile"
    with pytest.raises(InputError, match=said), compiler_explained():
        raise InductorError(RuntimeError("no compiler\nmore"), None)
    with pytest.raises(ValueError, match="mine"), compiler_explained():
        raise ValueError("mine")


@pytest.mark.parametrize(("problem", "students"), [("", [False]), ("no C compiler", [])])
def test_training_compiles_the_loss_where_it_pays_and_says_so(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: str,
    students: list[bool],
) -> None:
    asked, tried = list[bool](), list[tuple[object, ...]]()

    def tries(*given: object) -> str:
        tried.append(given)
        return problem

    monkeypatch.setattr(Learner, "compile_parts", lambda self, *, student: asked.append(student))
    monkeypatch.setattr("stages.train.pays", lambda *_: True)
    monkeypatch.setattr("stages.train.compiler_problem", tries)
    settings = "train.iterations=3", f"train.seed={2001 + len(problem)}", "train.grad_accumulation_steps=2"
    tiny.run("train", *settings)
    assert asked == students  # the loss is compiled without the student, or nothing is
    plan, said = tiny.plan(*settings), capsys.readouterr().err
    c = plan.config
    assert tried == [(CPU, (c.train.batch // 2, len(plan.vocabulary.seen), c.views.size), True, False)]
    assert "--no-compile" in said and problem in said
