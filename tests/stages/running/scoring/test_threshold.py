"""Claims about the threshold of the background: which photos it is fitted on, in one process or several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import stages.evaluate as stage
from cache.errors import InputError
from cache.location import Location
from stages.parts.data.datasets import Dataset, Which
from stages.parts.data.views import Array
from stages.parts.data.vocabulary import Vocabulary
from stages.parts.settings import EvaluateConfig
from stages.running.compute import Compute
from stages.running.scoring import threshold

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Compute(torch.device("cpu"))


def test_a_threshold_is_fitted_on_photos_whose_masks_are_read_and_a_bad_one_is_left_out(fresh_tiny: Tiny) -> None:
    few = fresh_tiny.plan("data.label_share=0.25").train_data
    assert [r.id for r in threshold.fitting_photos(few).records] == [i for i in few.ids if i not in few.unlabelled]
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


def test_processes_divide_the_photos_and_have_the_threshold_of_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, cfg = tiny.plan(), EvaluateConfig(short_side=16, background=True)
    read, counts, others = list[str](), list[torch.Tensor](), list[str]()

    def scorer(pixels: torch.Tensor) -> torch.Tensor:
        return (torch.cat([pixels, 255 - pixels[:, :1]], dim=1) - 128) / 32

    def labels(data: Dataset, i: int, which: Which) -> Array:
        read.append(data.ids[i])
        return inner(data, i, which)

    def summed(counted: torch.Tensor) -> torch.Tensor:
        counts.append(counted)
        return sum(counts, torch.zeros_like(counted))

    def fitted() -> float:
        return threshold.background_threshold(cfg, plan.train_data, scorer, 1.0, CPU)[0]

    inner = Dataset.labels
    monkeypatch.setattr(Dataset, "labels", labels)
    alone, every = fitted(), read.copy()
    monkeypatch.setattr(threshold, "all_reduce_sum", summed)
    monkeypatch.setattr(threshold, "all_gather_list", lambda bad: [*bad, *others])
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(threshold, "rank_and_world", lambda rank=rank: (rank, 2))
        read.clear()
        found = fitted()
        shares.append(set(read))
    assert found == alone and 0 < alone < 1
    assert not shares[0] & shares[1] and shares[0] | shares[1] == set(every) and all(shares)
    # A bad photo of another process counts here too, so that all of them stop.
    others.append("train00.jpg: can't be decoded")
    with pytest.raises(InputError, match=r"train00\.jpg: can't be decoded"):
        fitted()


def test_pixels_without_a_label_count_apart_also_where_all_classes_need_16_bits(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen labels have 8 bits: their 255 is no class, and must not become the 256th of 300."""
    photos, cfg, every = tiny.plan().train_data, EvaluateConfig(short_side=16), 300
    labels = np.array([[0, 255], [255, 255]], np.uint8)
    monkeypatch.setattr(threshold, "each_scored", lambda *_: iter([(torch.zeros(every, 2, 2), labels)]))
    monkeypatch.setattr(Vocabulary, "ordered", tuple(map(str, range(every))))
    curve = threshold.risk_curve(cfg, photos, "seen", lambda pixels: pixels, 1.0, CPU)
    assert curve.counts.sum(dim=1).tolist() == [1, 0, 3]  # right, wrong, without a label
