"""Claims about the threshold of "none of these": it keeps what it says, and no unseen label is read for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from pipeline import score
from pipeline.machine import Machine
from pipeline.study.threshold import FITTED, JUDGED, as_json, as_text, fit

if TYPE_CHECKING:
    from tests.conftest import Tiny

MACHINE = Machine("cpu", 0)


def test_the_threshold_keeps_what_it_says_of_seen_classes(tiny: Tiny) -> None:
    tiny.run("train")
    few, most = (fit(tiny.plan(), MACHINE, keep) for keep in (50, 95))
    assert few[FITTED].coverage == pytest.approx(50, abs=3) and most[FITTED].coverage == pytest.approx(95, abs=3)
    assert few[FITTED].threshold > most[FITTED].threshold == most[JUDGED].threshold
    assert most[FITTED].unlabelled is not None and most[FITTED].unlabelled > (few[FITTED].unlabelled or 0)
    assert as_json(most)["threshold"] == most[FITTED].threshold
    assert f"predict --threshold {most[FITTED].threshold:.6g}" in as_text(tiny.plan(), 95, most)
    text = as_text(tiny.plan("eval.seen_bias=0.5", "eval.pamr=3", "eval.short_side=80", "eval.mode=slide"), 95, most)
    assert "Use it: predict --short-side 80 --seen-bias 0.5 --pamr 3 --mode slide --threshold" in text
    found = score.evaluate(tiny.plan(), MACHINE)["report"]
    same = next(p for p in found.risk.points if p.coverage >= 95)
    assert fit(tiny.plan(), MACHINE, 100)[JUDGED].coverage >= same.coverage - 10


def test_labels_of_unseen_classes_move_nothing(fresh_tiny: Tiny) -> None:
    fresh_tiny.run("train")
    before = fit(fresh_tiny.plan(), MACHINE, 90)[FITTED]
    for name in fresh_tiny.plan().train_data.ids:
        file = fresh_tiny.data / "SegmentationClass" / f"{name}.png"
        mask = np.array(Image.open(file))
        mask[np.isin(mask, (2, 4))] = 0  # box and cross
        Image.fromarray(mask).save(file)
    assert fit(fresh_tiny.plan(), MACHINE, 90)[FITTED] == before


@pytest.mark.parametrize("keep", [-1.0, 101.0])
def test_an_impossible_share_is_refused(tiny: Tiny, keep: float) -> None:
    with pytest.raises(InputError, match="--keep"):
        fit(tiny.plan(), MACHINE, keep)
