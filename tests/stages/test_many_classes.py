"""More than 254 classes: labels, predictions and exports of 16 bits, and of 8 bits for everybody else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import InputError
from cache.settings import IGNORE, WIDE_IGNORE
from stages.parts.data.datasets import class_statistics, open_dataset
from stages.parts.data.vocabulary import load_vocabulary
from stages.parts.drawing.overlays import overlay
from stages.parts.drawing.palette import palette
from stages.parts.scoring.inference import pixel_counts, predicted
from stages.parts.scoring.metrics import confusion
from stages.parts.scoring.quality import matches
from stages.parts.scoring.segmenter import argmax_at
from stages.parts.students.exporting import PhotoStudent
from tests.conftest import CLASSES, UNSEEN, Tiny

NAMES = [*(n for n in CLASSES if n not in UNSEEN), *(f"thing {k}" for k in range(296)), *UNSEEN]
"""300 names; the two unseen classes that the masks show have the class indices 298 and 299."""


def write_many(world: Tiny) -> None:
    """The tiny world with 300 classes, 200 of them seen, and masks of 16 bits: value 500 + class, 65535 no label."""
    value = {0: 65535, 255: 65535, **{k: 500 + NAMES.index(name) for k, name in enumerate(CLASSES, 1)}}
    for path in (world.data / "SegmentationClass").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.vectorize(value.get)(mask).astype(np.uint16)).save(path)
    lines = [f"names = {json.dumps(NAMES)}", f"values = {list(range(500, 800))}", f"unseen = {json.dumps(NAMES[200:])}"]
    (world.data / "classes.toml").write_text("\n".join(lines))


def test_three_hundred_classes_from_masks_to_predictions(fresh_tiny: Tiny) -> None:
    from clip2seg import load_student
    from pipeline.use.predict import predict

    write_many(fresh_tiny)
    short = ("train.iterations=2", "train.warmup=1")
    report = fresh_tiny.run("eval", *short)["report"]
    counted = {c.name: c.pixels for c in report.classes if c.pixels}
    assert set(counted) == set(CLASSES) and len(report.classes) == 300
    data = open_dataset(fresh_tiny.plan().config.data.model_copy(update={"root": str(fresh_tiny.data)}), "val")
    drawn = np.concatenate([np.asarray(Image.open(r.mask)).ravel() for r in data.records])
    assert counted == {n: int((drawn == 500 + NAMES.index(n)).sum()) for n in CLASSES}
    statistics = class_statistics(data, "all")
    assert statistics.unlabelled == (drawn == 65535).sum() and statistics.pixels[299] == counted["cross"]
    assert data.labels(0, "seen").dtype == np.uint8 and data.labels(0, "all").dtype == np.uint16
    out = fresh_tiny.root / "out"
    (run,) = (fresh_tiny.artifacts / "tiny").glob("train-*")
    predict(load_student(str(run)), [str(data.records[0].image)], str(out), None, {}, 10**6)
    (png,) = (out / "labels").iterdir()
    labels = np.asarray(Image.open(png))
    assert labels.dtype == np.uint16 and labels.max() < 300
    said = json.loads((out / "predict.json").read_text())
    assert said["background"]["index"] == 65535 and len(said["classes"]) == 300
    assert sum(a["pixels"] for a in said["images"][0]["areas"]) == labels.size


def test_twenty_classes_stay_in_a_byte() -> None:
    words = load_vocabulary("voc", "official")
    assert words.lookup("all").dtype == np.uint8 and palette(words.ordered).shape == (256, 3)
    assert (
        predicted(torch.rand(20, 4, 5)).dtype == np.uint8 and argmax_at(torch.rand(20, 4, 5), (4, 5)).dtype == np.uint8
    )


def test_index_255_is_a_class_like_any_other() -> None:
    scores = torch.zeros(300, 2, 3)
    scores[255, 0], scores[299, 1, 0] = 1, 2
    labels = predicted(scores)
    assert labels.tolist() == [[255] * 3, [299, 0, 0]] and labels.dtype == np.uint16
    assert (argmax_at(scores, (2, 3), 0.5) == [[255] * 3, [299, WIDE_IGNORE, WIDE_IGNORE]]).all()
    truth = np.array([[255, WIDE_IGNORE, 255], [299, 0, 1]], np.uint16)
    counts = confusion(labels, truth, 300)
    assert counts[255, 255] == 2 and counts[299, 299] == 1 and counts[1, 0] == 1 and counts.sum() == 5
    on_device = pixel_counts(torch.from_numpy(labels), torch.from_numpy(truth), 300).numpy()
    assert (on_device[:-1].reshape(300, 300) == counts).all() and on_device[-1] == 1
    latent = np.array([[0, 0, 0], [1, IGNORE, IGNORE]], np.uint8)
    assert [(m.label, m.iou) for m in matches(latent, truth, range(200, 300))] == [(255, 2 / 3), (299, 1.0)]
    colours = palette([f"name {k}" for k in range(300)])
    picture = overlay(np.zeros((2, 3, 3), np.uint8), truth, colours, 1.0, contours=False)
    assert (picture[0, 0] == colours[255]).all() and (picture[0, 1] == colours[WIDE_IGNORE]).all()
    assert (overlay(np.full((2, 3, 3), 9, np.uint8), truth, colours, 1.0, contours=False, pale=False)[0, 1] == 9).all()


@pytest.mark.parametrize(("classes", "kind"), [(20, torch.uint8), (300, torch.int32)])
def test_an_exported_student_numbers_every_class(classes: int, kind: torch.dtype) -> None:
    student = torch.nn.Conv2d(3, 8, 1, bias=False)
    student.divisor = 1  # type: ignore[assignment]
    labels, scores = PhotoStudent(student, torch.randn(classes, 8), torch.zeros(classes))(
        torch.rand(1, 3, 40, 40) * 255
    )
    assert labels.dtype == kind and (labels == scores.argmax(1)).all()


def test_more_seen_classes_than_masks_of_training_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.toml"
    path.write_text(f"names = {json.dumps(NAMES)}\nunseen = {json.dumps(NAMES[280:])}\n")
    with pytest.raises(InputError, match="280 seen classes; at most 254"):
        load_vocabulary(str(path), "official")
