"""Claims about what TensorBoard shows of a run beside its losses."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pipeline.plan import Plan
from pipeline.study import watching

if TYPE_CHECKING:
    from tests.conftest import Tiny


def opened(tiny: Tiny, tmp_path: Path, *settings: str) -> Plan:
    return Plan.open(str(tiny.preset), settings, str(tmp_path))


def test_a_run_is_called_by_its_preset_and_what_differs_from_it(tiny: Tiny, tmp_path: Path) -> None:
    assert watching.run_name(opened(tiny, tmp_path)) == "tiny"
    plan = opened(tiny, tmp_path, "train.lr=0.01", "student.weights=/a b/w", "eval.seen_bias=0.1")
    assert watching.changed(plan, scored=True) == {"eval.seen_bias": 0.1}
    assert watching.changed(plan) == {"student.weights": "/a b/w", "train.lr": 0.01}
    assert watching.run_name(plan) == "tiny,student.weights=-a-b-w,train.lr=0.01"
    many = opened(tiny, tmp_path, *(f"train.{k}=2" for k in ("seed", "batch", "warmup", "poly_power", "lr")))
    assert watching.run_name(many).endswith(",and-1-more")
    # A row of a table is a plan made in Python.
    plan = opened(tiny, tmp_path)
    row = plan.variant(distill=plan.config.distill.model_copy(update={"loss": "none"}))
    assert watching.run_name(row) == "tiny,distill.loss=none"


def test_tensorboard_has_scores_settings_and_the_same_photos_of_every_run(tiny: Tiny) -> None:
    tiny.run("eval")
    folder = Path(str(tiny.plan().address("train"))) / "tensorboard"
    (name,) = [f.name for f in folder.iterdir()]
    # `Tiny.plan` makes its plans in Python, without the preset's file.
    assert name == "tiny"
    events = EventAccumulator(str(folder / name)).Reload()
    report = tiny.run("eval")["report"]
    for score in ("hIoU", "sIoU", "uIoU"):
        (point,) = events.Scalars(f"score/{score}")
        assert point.step == 6 and point.value == pytest.approx(getattr(report, score), abs=1e-3)
    told = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert HParamsPluginData.FromString(told).session_start_info.hparams["preset"].string_value == "tiny"
    shown = [tag for tag in events.Tags()["images"] if tag.startswith("validation/")]
    ids = tiny.plan().val_data.ids
    assert shown == [f"validation/{ids[i]}" for i in (0, 2, 3, 5)]
    assert {tag.replace("validation", "ground truth") for tag in shown} <= set(events.Tags()["images"])
    picture = Image.open(io.BytesIO(events.Images(shown[0])[-1].encoded_image_string))
    assert picture.width >= 2 * tiny.plan().val_data.image(0).shape[1]


def test_photos_show_unseen_classes_and_a_bad_one_is_left_out(
    fresh_tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = fresh_tiny.plan()
    photos = watching.Photos(plan, torch.device("cpu"))
    truths = photos.truths()
    assert len(truths) == 4
    # The legend under a ground truth marks what no label of training names.
    drawn: list[str] = []
    monkeypatch.setattr(
        "pipeline.study.watching.with_legend", lambda _, entries: drawn.extend(text for text, _ in entries)
    )
    photos.truths()
    assert {"box *", "disc"} <= set(drawn)
    monkeypatch.undo()
    first = plan.val_data.records[0].image
    Path(first).write_bytes(b"no picture")
    assert len(watching.Photos(plan, torch.device("cpu")).truths()) == 3
    assert "not shown in TensorBoard" in capsys.readouterr().err
    assert all(np.asarray(picture).dtype == np.uint8 for picture in truths.values())
