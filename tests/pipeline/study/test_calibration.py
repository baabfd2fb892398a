"""`calibrate`: the bias is fitted on seen classes alone, and its curve is that of `eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cache.errors import InputError
from pipeline import run, score
from pipeline.cli import app
from pipeline.machine import Machine
from pipeline.study.calibration import calibrate, inner_plan, spread_classes
from stages.parts.scoring.bias_curve import Point


def test_the_fit_sees_no_unseen_label_and_no_image_twice(tiny: Any) -> None:
    plan = tiny.plan()
    inner = inner_plan(plan, ["stripes"])
    assert (inner.vocabulary.seen, inner.vocabulary.unseen) == (("disc",), ("stripes",))
    assert set(inner.train_data.ids) | set(inner.val_data.ids) == set(plan.train_data.ids)
    assert not set(inner.train_data.ids) & set(inner.val_data.ids)
    index = {image: i for i, image in enumerate(plan.train_data.ids)}
    unseen = 0
    for data in (inner.train_data, inner.val_data):
        for i, image in enumerate(data.ids):
            real = plan.train_data.labels(index[image], "all")  # 0 disc, 1 stripes, then the unseen box and cross
            fitted, trained = data.labels(i, "all"), data.labels(i, "seen")
            assert np.array_equal(fitted, np.where(real < 2, real, 255)) and not (trained == 1).any()
            unseen += int(((real == 2) | (real == 3)).sum())
    assert unseen > 1000  # there was something not to look at
    assert inner.fingerprint("train") != plan.fingerprint("train")


def test_classes_are_held_out_from_frequent_to_rare(tiny: Any) -> None:
    plan = tiny.plan()
    (held,) = spread_classes(plan)
    counts = dict.fromkeys(plan.vocabulary.seen, 0)
    for i in range(len(plan.train_data)):
        for k, name in enumerate(counts):
            counts[name] += int((plan.train_data.labels(i) == k).sum())
    assert held == sorted(counts, key=lambda name: -counts[name])[1]  # the middle of two


@pytest.mark.parametrize("names", [["box"], ["disc", "stripes"], ["dog"]])
def test_what_can_not_be_held_out_is_named(tiny: Any, names: list[str]) -> None:
    with pytest.raises(InputError, match="held-out class"):
        inner_plan(tiny.plan(), names)


def test_calibrate_gives_the_curve_and_what_the_fitted_bias_is_worth(tiny: Any, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["calibrate", str(tiny.preset), "--artifacts", str(tmp_path), "--hold-out", "disc", "--device", "cpu",
         "--workers", "0", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    report = score.evaluate(tiny.plan(artifacts=tmp_path), Machine("cpu", 0))["report"].model_dump()
    plain, fitted, best = (
        found["rows"][k] for k in ("no seen bias", "fitted on held-out seen classes", "best in hindsight")
    )
    assert plain["bias"] == 0 and fitted["bias"] == found["seen_bias"]
    assert [plain[k] for k in ("hiou", "siou", "uiou")] == [report[k] for k in ("hIoU", "sIoU", "uIoU")]
    assert best["hiou"] == max(p["hiou"] for p in found["outer"]) >= fitted["hiou"]
    assert found["seen_bias"] == max(found["inner"], key=lambda p: (p["hiou"], -abs(p["bias"])))["bias"]
    assert found["held_out"] == ["disc"] and len(found["inner"]) == 201
    kept = {at.parent.name for at in tmp_path.glob("tiny/train-*/tiny.toml")}  # the inner run is no preset's
    assert kept == {tiny.plan(artifacts=tmp_path).address("train").name}
    assert f"--set eval.seen_bias={found['seen_bias']:.3g}" in result.stdout


def test_a_curve_without_hiou_is_no_fit(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    for one in ("draw_world", "make_cache", "train"):
        monkeypatch.setattr(run, one, lambda *_: None)
    monkeypatch.setattr(score, "bias_curve", lambda *_: [Point(-2.0, 0.5, nan, nan), Point(0.0, 0.4, 0.0, 0.0)])
    with pytest.raises(InputError, match=r"show nothing of disc, or the student finds none of it; .* --hold-out$"):
        calibrate(tiny.plan(), Machine("cpu"), ["disc"])


def test_a_data_set_without_unseen_classes_has_nothing_to_calibrate(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan()
    with pytest.raises(InputError, match=r"--hold-out|held-out"):
        inner_plan(plan, [])
