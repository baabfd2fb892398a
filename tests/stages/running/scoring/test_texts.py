"""Claims about classes of several texts: where the best of them counts, it does so for student, teacher and bias."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cache.errors import InputError
from cache.location import Location
from pipeline import run, score
from pipeline.machine import Machine
from stages import evaluate
from stages.parts.scoring.inference import coarse_scores, predicted, student_scorer
from stages.parts.scoring.metrics import confusion, scores
from stages.parts.scoring.report import means
from stages.parts.teacher.teacher import load_text_tower
from stages.parts.teacher.texts import encode_texts
from stages.running.compute import Compute
from stages.running.scoring.student import load_student

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from tests.conftest import Tiny

CPU, MACHINE = Compute(torch.device("cpu")), Machine("cpu", 0)


@pytest.fixture
def several(tiny: Tiny, fresh_tiny: Tiny) -> Plan:
    """The trained tiny student, and two texts for an unseen class."""
    tiny.run("train")
    shutil.copytree(tiny.artifacts / "tiny", fresh_tiny.artifacts / "tiny")
    words = fresh_tiny.data / "classes.toml"
    words.write_text(words.read_text() + 'say = { box = "box | wooden crate" }\n')
    settings = "eval.synonyms=max", "eval.pictures=0"
    plan = tiny.plan(*settings, artifacts=fresh_tiny.artifacts, data=fresh_tiny.data)
    run.extract(plan, MACHINE)
    return plan


def test_at_each_position_the_best_text_of_a_class_counts(several: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    data, at = several.val_data, several.address("train")
    with pytest.raises(InputError, match=r"eval\.synonyms = max are not embedded; run `clip2seg eval` first"):
        evaluate.run(several.scoring, data, several.artifact("text"), at, Location("memory:///out"), compute=CPU)
    found = score.evaluate(several, MACHINE)["report"]
    # By the book: five rows, of which the third and fourth are one class.
    tower = load_text_tower(several.config.teacher)
    rows = encode_texts(tower.encode, several.vocabulary.words, several.prompts)
    scorer = student_scorer(load_student(at).student, rows)
    counts = np.zeros((4, 4), np.int64)
    for i in range(len(data)):
        image = data.image(i)
        each = coarse_scores(scorer, image[None], several.scoring, CPU.device)
        best = torch.cat([each[:, :2], torch.maximum(each[:, 2:3], each[:, 3:4]), each[:, 4:]], dim=1)
        labels = predicted(F.interpolate(best, image.shape[:2], mode="bilinear", align_corners=False)[0])
        counts += confusion(labels, data.labels(i, "all"), 4)
    assert found.settings.synonyms == "max"
    assert found.model_dump(include={"sIoU", "uIoU", "hIoU", "pixel_accuracy"}) == means(scores(counts, 2))
    # The other texts are kept: nothing needs the teacher's text tower again, nor another embedding for the seen bias.
    monkeypatch.setattr("stages.parts.teacher.teacher.load_text_tower", None)
    (point,) = [p for p in score.bias_curve(several, MACHINE) if p.bias == 0]
    assert round(100 * point.uiou, 2) == found.uIoU
    teacher = score.evaluate_teacher(several, MACHINE)["report"]
    assert teacher.settings.synonyms == "max"
