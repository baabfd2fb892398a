"""Claims about the threshold of the background: which photos it is fitted on, in one process or several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import stages.evaluate as stage
from cache.errors import InputError
from cache.location import Location
from stages.running.compute import Compute
from stages.running.scoring.threshold import fitting_photos

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Compute(torch.device("cpu"))


def test_a_threshold_is_fitted_on_photos_whose_masks_are_read_and_a_bad_one_is_left_out(fresh_tiny: Tiny) -> None:
    few = fresh_tiny.plan("data.label_share=0.25").train_data
    assert [r.id for r in fitting_photos(few).records] == [i for i in few.ids if i not in few.unlabelled]
    fresh_tiny.run("train")
    text, run_at = fresh_tiny.plan().artifact("text"), fresh_tiny.plan().address("train")
    (fresh_tiny.data / "JPEGImages/train04.jpg").write_bytes(b"no picture")
    for allowed in (0, 1):
        plan = fresh_tiny.plan("eval.background=true", f"data.max_bad={allowed}")
        arguments = plan.config.eval, plan.val_data, text, run_at, Location(str(fresh_tiny.root / f"out{allowed}"))
        if allowed:
            assert stage.run(*arguments, train=plan.train_data, compute=CPU).background is not None
        else:
            with pytest.raises(InputError, match="train04"):
                stage.run(*arguments, train=plan.train_data, compute=CPU)
