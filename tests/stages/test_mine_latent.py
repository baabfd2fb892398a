"""Claims about mine-latent: cells, regions and tokens fit together, however they were computed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import stages.mine_latent as stage
from cache.settings import IGNORE
from stages.parts.data.regions import annotated_share, present_regions, pseudo_mask, region_crops
from stages.parts.mining.clustering import mine
from stages.parts.mining.miner import Miner
from stages.parts.teacher.teacher import load_teacher
from stages.parts.teacher.tokens import encode_crops
from stages.running.drafts import Drafts
from stages.running.interrupts import Stopped

if TYPE_CHECKING:
    from tests.conftest import Tiny

NAMES = ["cells", "local", "local_region", "local_offsets"]


def latent(tiny: Tiny, artifacts: Path | None = None) -> dict[str, bytes]:
    found = tiny.plan(artifacts=artifacts).artifact("latent").load(NAMES)
    return {name: value.tobytes() for name, value in found.items()}


def test_cells_are_what_mining_makes_of_the_stored_tokens(tiny: Tiny) -> None:
    tiny.run("mine-latent")
    plan = tiny.plan()
    found = plan.artifact("latent").load(NAMES)
    dense = [row for shard in range(3) for row in plan.artifact("dense").rows(shard, "dense")]
    assert plan.artifact("latent").ids() == plan.train_data.ids
    for i in range(len(dense)):
        share = annotated_share(plan.train_data.labels(i, "seen"), (8, 8))
        np.testing.assert_array_equal(found["cells"][i], mine(dense[i], share, plan.config.mine_latent))
        assert (found["cells"][i][share > plan.config.mine_latent.max_annotated] == IGNORE).all()


def test_latent_regions_are_those_of_the_pseudo_mask_each_with_its_token(tiny: Tiny) -> None:
    tiny.run("mine-latent")
    plan = tiny.plan()
    found, data, teacher = plan.artifact("latent").load(NAMES), plan.train_data, load_teacher(plan.config.teacher)
    for i in range(len(data)):
        labels = data.labels(i, "seen")
        mask = pseudo_mask(labels, found["cells"][i], 2)
        assert (mask[labels != IGNORE] == labels[labels != IGNORE]).all()
        own = slice(found["local_offsets"][i], found["local_offsets"][i + 1])
        regions = [r - 2 for r in present_regions(mask) if r >= 2]
        assert found["local_region"][own].tolist() == regions
        if i < 2:
            crops = region_crops(data.image(i), mask, [r + 2 for r in regions], 32)
            wanted = teacher.encode_crops(torch.tensor(crops).permute(0, 3, 1, 2)).numpy()
            np.testing.assert_allclose(found["local"][own], wanted, atol=1e-5)


def test_threads_and_a_stop_change_no_bit(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.run("mine-latent")
    calls = 0

    def stopped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return encode_crops(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "encode_crops", stopped)
        with pytest.raises(KeyboardInterrupt):
            tiny.run("mine-latent", artifacts=tmp_path)
    assert tiny.plan(artifacts=tmp_path).artifact("latent").committed() == [0, 1]
    tiny.run("mine-latent", artifacts=tmp_path, workers=3)
    assert latent(tiny, tmp_path) == latent(tiny)


def test_the_next_batch_is_mined_while_the_teacher_has_this_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run("mine-latent", "extract.shard=12")
    begun = [threading.Event() for _ in range(12)]
    original = Miner.mine

    def mining(self: Miner, row: int, *arguments: Any) -> Any:
        begun[row].set()
        return original(self, row, *arguments)

    turns: list[bool] = []

    def encoding(*arguments: Any) -> Any:
        turns.append(begun[min(4 * len(turns) + 4, 11)].wait(60))  # a batch is 4 views
        return encode_crops(*arguments)

    monkeypatch.setattr(Miner, "mine", mining)
    monkeypatch.setattr(stage, "encode_crops", encoding)
    tiny.run("mine-latent", "extract.shard=12", artifacts=tmp_path)
    assert turns == [True, True, True]
    plans = [tiny.plan("extract.shard=12", artifacts=at).artifact("latent") for at in (None, tmp_path)]
    one, other = (plan.load(NAMES) for plan in plans)
    assert all(np.array_equal(one[name], other[name]) for name in NAMES)


def test_what_a_mining_thread_raises_ends_the_stage_and_keeps_what_was_finished(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Miner.mine

    def broken(self: Miner, row: int, *arguments: Any) -> Any:
        if row == 9:
            raise RuntimeError("row 9")
        return original(self, row, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Miner, "mine", broken)
        with pytest.raises(RuntimeError, match="row 9"):
            tiny.run("mine-latent", "extract.shard=12", artifacts=tmp_path, workers=2)
    out = tiny.plan("extract.shard=12", artifacts=tmp_path).artifact("latent")
    assert out.committed() == [] and sorted(Drafts(out.at, 0).load()) == [0, 4]


def test_the_summary_adds_up(tiny: Tiny) -> None:
    summary = tiny.run("mine-latent")["summary"]
    found = tiny.plan().artifact("latent").load(NAMES)
    counts = np.diff(found["local_offsets"])
    assert summary["latent_classes"] == {str(k): int(n) for k, n in enumerate(np.bincount(counts)) if n}
    assert summary["median_latent_classes"] == float(np.median(counts))
    assert 0 < summary["covered_share"] <= 1
    assert {"faiss", "teacher", "dense"} <= set(summary["ms_per_view"])


def test_an_image_without_an_unannotated_cell_has_no_latent_class(fresh_tiny: Tiny) -> None:
    mask = fresh_tiny.data / "SegmentationClass/train03.png"
    size = np.array(Image.open(mask)).shape
    Image.fromarray(np.full(size, 3, np.uint8)).save(mask)
    report = fresh_tiny.run("eval")["report"]
    found = fresh_tiny.plan().artifact("latent").load(NAMES)
    assert (found["cells"][3] == IGNORE).all()
    assert found["local_offsets"][3] == found["local_offsets"][4]
    assert report.images == 6


def test_an_image_without_any_seen_label_is_all_latent(fresh_tiny: Tiny) -> None:
    mask = fresh_tiny.data / "SegmentationClass/train03.png"
    size = np.array(Image.open(mask)).shape
    Image.fromarray(np.full(size, 4, np.uint8)).save(mask)
    fresh_tiny.run("train")
    assert (fresh_tiny.plan().artifact("latent").load(NAMES)["cells"][3] != IGNORE).all()
    seen = fresh_tiny.plan().artifact("tokens").load(["local_offsets"])["local_offsets"]
    assert seen[3] == seen[4]


@pytest.mark.parametrize("dense", ["true", "false"])
def test_a_stop_within_a_shard_costs_the_batch_in_work_alone(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    contents: Callable[[Path], dict[str, bytes]],
    dense: str,
) -> None:
    overrides, mined = ("extract.shard=12", f"extract.store_dense={dense}"), []
    tiny.run("mine-latent", *overrides, artifacts=tmp_path / "whole")
    tiny.run("extract", *overrides, artifacts=tmp_path / "halves")

    def counted(*arguments: Any) -> Any:
        mined.append(len(arguments[1]))
        if len(mined) == stop:
            raise Stopped(signal.SIGINT)
        return encode_crops(*arguments)

    monkeypatch.setattr(stage, "encode_crops", counted)
    stop = 3
    with pytest.raises(Stopped):
        tiny.run("mine-latent", *overrides, artifacts=tmp_path / "halves")
    latent = tiny.plan(*overrides, artifacts=tmp_path / "halves").artifact("latent")
    assert latent.committed() == [] and sorted(Drafts(latent.at, 0).load()) == [0, 4]
    mined, stop = [], 0
    tiny.run("mine-latent", *overrides, artifacts=tmp_path / "halves")
    assert len(mined) == 1
    assert contents(tmp_path / "halves") == contents(tmp_path / "whole")
