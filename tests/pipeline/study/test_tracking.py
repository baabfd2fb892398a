from __future__ import annotations

import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cache.errors import InputError
from pipeline.study.tracking import tracked

if TYPE_CHECKING:
    from tests.conftest import Tiny

PIXELS = np.zeros((2, 3, 3), np.uint8)


class Wandb(SimpleNamespace):
    """Stands in for the library: notes what it is asked."""

    Image = staticmethod(lambda pixels: f"picture {pixels.shape}")

    def __init__(self) -> None:
        super().__init__(asked=[], finished=0, logged=[])

    def init(self, **how: Any) -> Wandb:
        self.asked.append(how)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished += 1


class Mlflow(SimpleNamespace):
    """Stands in for the library: keeps runs by a tag, and what each is told."""

    def __init__(self) -> None:
        super().__init__(runs=[], told=[], experiment="")

    def set_experiment(self, name: str) -> None:
        self.experiment = name

    def search_runs(self, **how: Any) -> list[Any]:
        wanted = how["filter_string"].split("'")[1]
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=i)) for i, r in enumerate(self.runs) if r["address"] == wanted
        ]

    def start_run(self, run_id: int = -1, run_name: str = "", tags: dict[str, str] | None = None) -> Any:
        if run_id < 0:
            self.runs.append({"name": run_name, **(tags or {})})
        return nullcontext()

    def log_dict(self, found: dict[str, Any], file: str) -> None:
        self.told.append((file, found["train"]["seed"]))

    def log_metric(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))

    def log_image(self, pixels: np.ndarray, key: str, step: int) -> None:
        self.told.append((key, pixels.shape, step))

    def end_run(self) -> None:
        self.told.append("end")


def test_curves_are_mirrored_and_the_run_is_ended_even_after_a_failure(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, plan = Wandb(), tiny.plan("train.seed=3")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(ZeroDivisionError), tracked(plan, wandb="proj") as (one,):
        one.scalar("loss/total", 2.5, 10)
        one.image("validation/a", PIXELS, 10)
        raise ZeroDivisionError
    (asked,) = wandb.asked
    assert asked["project"] == "proj" and asked["config"]["train"]["seed"] == 3
    # By the run's address, so that `eval` goes on with it.
    assert asked["id"] == plan.address("train").name and asked["resume"] == "allow"
    assert wandb.logged == [({"loss/total": 2.5}, 10), ({"validation/a": "picture (2, 3, 3)"}, 10)]
    assert wandb.finished == 1


def test_mlflow_finds_the_run_again_and_gets_names_that_it_takes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow, plan = Mlflow(), tiny.plan("train.seed=3")
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for step in (10, 20):
        with tracked(plan, mlflow="zero shot") as (one,):
            one.scalar("score/hIoU eval.seen_bias=0.1", 2.5, step)
            one.image("validation/ä", PIXELS, step)
    assert mlflow.experiment == "zero shot" and len(mlflow.runs) == 1
    points = [("score/hIoU eval.seen_bias-0.1", 2.5, 10), ("validation/-", (2, 3, 3), 10)]
    assert mlflow.told[:4] == [("settings.json", 3), *points, "end"]
    assert len(mlflow.told) == 7


@pytest.mark.parametrize("library", ["wandb", "mlflow"])
def test_without_a_project_the_library_is_not_touched(
    library: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with tracked(tiny.plan()) as trackers:
        assert trackers == []
    with pytest.raises(InputError, match=f"pip install {library}"), tracked(tiny.plan(), **{library: "proj"}):
        pass


def test_a_refusal_is_one_line_without_the_key(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("401 for key secretkey\nsecond line")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_experiment=refuse))
    for library in ("wandb", "mlflow"):
        refused = pytest.raises(InputError, match=f"--{library} proj: refused")
        with refused as caught, tracked(tiny.plan(), **{library: "proj"}):
            pass
        assert "secretkey" not in str(caught.value) and "\n" not in str(caught.value)
