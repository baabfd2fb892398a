"""Claims about the early verdict: whether the teacher knows the classes, from cached tokens, against chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.inspection import naming
from pipeline.invocation import Invocation

if TYPE_CHECKING:
    from tests.conftest import Tiny

TYPED = Invocation("farm", "artifacts", "")


class Stored:
    """An artifact of one shard."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays

    def committed(self) -> list[int]:
        return [0]

    def read(self, _: int, names: list[str]) -> dict[str, np.ndarray]:
        return {name: self.arrays[name] for name in names}


def named(local: np.ndarray, region: list[int], k: int) -> dict[str, Any]:
    tokens = Stored(local=local, local_region=np.array(region, np.uint8))
    found = naming.naming(tokens, Stored(seen=np.eye(k, dtype=np.float32)), [f"c{i}" for i in range(k)])  # type: ignore[arg-type]
    assert found is not None
    return found


def test_tokens_of_their_own_names_are_good_and_those_of_any_are_poor() -> None:
    eye, region = np.eye(9, dtype=np.float32), [i % 9 for i in range(90)]
    good = named(eye[region], region, 9)
    assert (good["top1"], good["mean"], good["above"]) == (100.0, 100.0, 100.0)
    assert naming.verdict(TYPED, good)[0] == "good"
    lost = named(eye[[(i // 9) % 9 for i in range(90)]], region, 9)
    assert lost["top1"] == pytest.approx(lost["chance"], abs=0.2)
    word, line = naming.verdict(TYPED, lost)
    assert word == "POOR" and "chance 11.1 %" in line and "inspect farm quality" in line


def test_one_frequent_class_that_all_are_called_is_not_taken_for_knowledge() -> None:
    region = [0] * 80 + [1, 2, 3, 4] * 5
    found = named(np.eye(5, dtype=np.float32)[[0] * 100], region, 5)
    assert found["top1"] == 80.0 and found["above"] == 0.0
    assert naming.verdict(TYPED, found)[0] == "POOR"


def test_extract_and_plain_inspect_say_it_and_eval_without_unseen_classes_points_to_it(tiny: Tiny) -> None:
    from pipeline.inspection.opened import Inspection
    from pipeline.inspection.questions import ask
    from pipeline.machine import Machine
    from pipeline.text import eval_text, extract_text

    plan = tiny.plan()
    said = extract_text(plan.invocation, tiny.run("extract"))
    text, found = ask(Inspection(plan, Machine("cpu", 0)), "summary", "", count=-1, full_labels=False, vocabulary="")
    assert found["naming"]["chance"] == 50.0 and found["naming"]["regions"] > 0
    assert "called by the nearest of 2 seen names" in said and "called by the nearest of 2 seen names" in text
    result = tiny.run("eval")
    none = result | {"report": result["report"].model_copy(update={"uIoU": 0.4})}
    assert "uIoU is 0.4: " in eval_text(plan, none)
    fine = result | {"report": result["report"].model_copy(update={"uIoU": 31.0})}
    assert "uIoU is" not in eval_text(plan, fine)
