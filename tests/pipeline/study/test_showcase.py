"""The picture that `clip2seg demo` ends with, on the tiny world."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipeline import run
from pipeline.machine import Machine
from pipeline.study import showcase
from pipeline.text import baseline

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_the_strip_shows_both_students_on_evaluation_images(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("eval", artifacts=tmp_path)
    plan, machine = tiny.plan(artifacts=tmp_path), Machine("cpu", 0)
    reference = baseline(plan)
    run.train(reference, machine)
    at = showcase.draw(plan, reference, machine)
    assert at == f"{plan.address('eval')}/strip.jpg"
    data = plan.address("eval").get("strip.jpg")
    assert data
    sheet = np.asarray(Image.open(io.BytesIO(data)))
    assert sheet.shape[1] > 5 * 384 and sheet.shape[0] > 3 * 240
    apart = _difference(sheet)
    assert showcase.draw(plan, plan, machine) == at  # again: one student beside itself
    assert _difference(np.asarray(Image.open(io.BytesIO(plan.address("eval").get("strip.jpg") or b"")))) < apart / 3


def _difference(sheet: np.ndarray) -> float:
    """Mean difference of the columns of the two students, titles and note apart; JPEG alone makes about one."""
    first, second = (sheet[60:-60, k * 391 : k * 391 + 384].astype(int) for k in (2, 3))
    return float(np.abs(first - second).mean())
