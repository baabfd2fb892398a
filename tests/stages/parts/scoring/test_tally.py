"""Claims about counting: labels of no class are refused, the background being one where it is scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.parts.scoring.background import BackgroundCurve
from stages.parts.scoring.risk import RiskCurve
from stages.parts.scoring.tally import Tally
from stages.parts.settings import EvaluateConfig


def tally(background: BackgroundCurve | None) -> Tally:
    cpu = torch.device("cpu")
    return Tally(EvaluateConfig(short_side=16), 2, 4, cpu, RiskCurve(4, 1.0, cpu), None, background)


def test_a_label_of_no_class_is_refused_where_the_background_is_not_scored() -> None:
    labels = np.array([[0, 1], [4, 255]], np.uint8)
    pairs = [(np.zeros((2, 2, 3), np.uint8), labels)]
    with pytest.raises(ValueError, match=r"1 pixels hold a value outside 0\.\.3"):
        tally(None).add(lambda images: torch.zeros(len(images), 4, 2, 2), pairs)
    scored = tally(BackgroundCurve(4, 1.0, torch.device("cpu")))
    (own,) = scored.add(lambda images: torch.zeros(len(images), 4, 2, 2), pairs)
    assert own.sum() == scored.confusion.sum() == 2
