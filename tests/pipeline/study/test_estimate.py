"""Claims about `plan --for`: bytes are those that are stored, everything grows with the number of views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from pipeline.config import load_config
from pipeline.machine import Machine
from pipeline.study.estimate import bytes_per_view, estimate, estimate_text, images_for

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_a_size_is_a_vocabularys_count_or_a_number(tiny: Tiny) -> None:
    coco = load_config("coco_stuff")
    assert images_for("coco_stuff", coco)[0] == 118_287
    assert images_for("voc", load_config("voc"))[0] == 10_582
    assert images_for("coco_stuff", load_config("voc"))[0] == 118_287  # VOC's list is none of COCO's: the largest
    count, words = images_for("1e8", tiny.plan().config.model_copy(update={"data": coco.data}))
    assert count == 100_000_000 and len(words.seen) == 156
    for wrong in ("0", "-3", "nan", "inf", "nonsense"):
        with pytest.raises(InputError, match=wrong):
            images_for(wrong, coco)


def test_bytes_a_view_are_those_that_extract_stores(tiny: Tiny) -> None:
    tiny.run("mine-latent")
    plan = tiny.plan()
    views = len(plan.train_data)
    regions = len(plan.artifact("tokens").load(["local_region"])["local_region"]) / views
    found = bytes_per_view(plan.config, (8, 8), 32, regions)
    for kind in ("tokens", "dense"):
        stored = sum(plan.artifact(kind).at.names().values()) / views
        assert found[kind] == pytest.approx(stored, rel=0.35), kind  # shards of 4 views: the marks are half of it
    payload = 32 * 4 * (1 + regions) + regions + 8 + 8 + 8 + 4 + 4  # two checksums: labels, photo
    large = plan.config.model_copy(update={"extract": plan.config.extract.model_copy(update={"shard": 10**6})})
    assert bytes_per_view(large, (8, 8), 32, regions)["tokens"] == pytest.approx(payload + 24, rel=0.01)


def test_an_estimate_grows_with_the_views_and_shows_its_calibration(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipeline.study.estimate._calibrate",
        lambda *_: {"view": 0.5, "crop": 0.25, "mine": 0.1, "step": 0.2, "decode": 2.0},
    )
    monkeypatch.setattr("pipeline.study.estimate.images_for", lambda what, c: (int(what), tiny.plan().vocabulary))
    config = tiny.plan().config
    one, ten = (estimate(config, n, 2, Machine("cpu", 1)) for n in ("3600", "36000"))
    assert one["hours"]["extract"] == pytest.approx(2.0)  # decoding waits longer than the teacher's 0.5 + 2 * 0.25
    assert one["hours"]["mine-latent"] == pytest.approx(0.1 + 4 * 0.25)
    assert one["hours"]["train"] == pytest.approx(6 * 4 * 0.2 / 3600, abs=1e-3)
    for key in ("bytes", "gflops", "hours"):
        assert ten[key]["mine-latent" if key != "bytes" else "dense"] == pytest.approx(
            10 * one[key]["mine-latent" if key != "bytes" else "dense"], rel=1e-3
        )
    assert ten["gflops"]["train"] == one["gflops"]["train"]  # the schedule is the preset's
    assert "36000 images" in estimate_text("tiny", ten) and "machine:" in estimate_text("tiny", ten)


def test_the_calibration_runs_the_presets_own_networks(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.study.estimate.images_for", lambda *_: (100, tiny.plan().vocabulary))
    found = estimate(tiny.plan().config, "100", 1, Machine("cpu", 0))
    assert set(found["seconds"]) == {"view", "crop", "mine", "step", "decode"}
    assert all(v > 0 for v in found["seconds"].values()) and all(v > 0 for v in found["gflops"].values())
