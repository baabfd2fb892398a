from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from cache.errors import InputError
from pipeline.study.tracking import tracked


class Wandb(SimpleNamespace):
    """Stands in for the library: notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(asked=[], finished=0, logged=[])

    def init(self, **how: Any) -> Wandb:
        self.asked.append(how)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished += 1


def test_curves_are_mirrored_and_the_run_is_ended_even_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(ZeroDivisionError), tracked("proj", "demo", {"train": {"lr": 1}}) as log:
        assert log is not None
        log("loss/total", 2.5, 10)
        raise ZeroDivisionError
    (asked,) = wandb.asked
    assert asked["project"] == "proj" and asked["config"] == {"train": {"lr": 1}}
    assert wandb.logged == [({"loss/total": 2.5}, 10)] and wandb.finished == 1


def test_without_a_project_the_library_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with tracked("", "demo", {}) as log:
        assert log is None
    with pytest.raises(InputError, match="pip install wandb"), tracked("proj", "demo", {}):
        pass


def test_a_refusal_is_one_line_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("401 for key secretkey\nsecond line")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(InputError, match="--wandb proj: refused") as caught, tracked("proj", "demo", {}):
        pass
    assert "secretkey" not in str(caught.value) and "\n" not in str(caught.value)
