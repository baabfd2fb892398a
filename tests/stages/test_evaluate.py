"""Claims about eval: one confusion matrix by the book, and a student is never scored under another's classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import stages.evaluate as stage
from cache.errors import InputError
from cache.location import Location
from cache.settings import IGNORE
from pipeline.text import eval_text
from stages.parts.eval_report import EvalReport
from stages.parts.scoring.inference import class_scores, predicted, student_scorer
from stages.parts.scoring.metrics import confusion, scores
from stages.parts.scoring.report import class_rows, means, per_cent
from stages.running.board import SCORES
from stages.running.compute import Compute
from stages.running.scoring.reports import read_biases
from stages.running.scoring.student import all_text, load_student

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Compute(torch.device("cpu"))


def evaluated(tiny: Tiny, out: Path, *overrides: str, data: Path | str = "") -> EvalReport:
    """Scores the shared student under other settings of [eval], or other evaluation images."""
    tiny.run("train")
    plan = tiny.plan("eval.pictures=0", *overrides, data=data)
    run_at = tiny.plan().address("train")
    return stage.run(plan.config.eval, plan.val_data, plan.artifact("text"), run_at, Location(str(out)), compute=CPU)


def slow_scores(predictions: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, Any]:
    """IoU of four classes by plain loops over pixels."""
    hit, in_truth, in_prediction = [0] * 4, [0] * 4, [0] * 4
    for found, wanted in zip(predictions, truths, strict=True):
        for p, t in zip(found.ravel().tolist(), wanted.ravel().tolist(), strict=True):
            if t != IGNORE:
                hit[t] += p == t
                in_truth[t] += 1
                in_prediction[p] += 1
    iou = [100 * hit[c] / (in_truth[c] + in_prediction[c] - hit[c]) for c in range(4)]
    s, u = sum(iou[:2]) / 2, sum(iou[2:]) / 2
    return {
        "IoU": iou,
        "sIoU": s,
        "uIoU": u,
        "hIoU": 2 * s * u / (s + u) if s + u else 0.0,
        "pixel_accuracy": 100 * sum(hit) / sum(in_truth),
        "pixels": in_truth,
    }


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_scores_are_those_of_a_plain_loop(tiny: Tiny, tmp_path: Path, mode: str) -> None:
    tiny.run("train")
    overrides: tuple[str, ...] = (f"eval.mode={mode}", "eval.crop=32", "eval.stride=24")
    plan = tiny.plan(*overrides)
    checkpoint = load_student(tiny.plan().address("train"))
    arrays = plan.artifact("text").read(0)
    text = torch.from_numpy(np.concatenate([arrays["seen"], arrays["unseen"]]))
    scorer, data = student_scorer(checkpoint.student, text), plan.val_data
    # A bias in the middle, so that seen and unseen classes are predicted whatever six steps made of the student.
    plain = class_scores(scorer, data.image(0), plan.config.eval, 2, CPU.device)
    margin = np.sort((plain[:2].amax(0) - plain[2:].amax(0)).numpy(), axis=None)
    middle = margin[len(margin) // 4 : 3 * len(margin) // 4]
    widest = int(np.diff(middle).argmax())  # between two pixels, or one would be a tie that rounding decides
    bias = float(middle[widest : widest + 2].mean())
    overrides = (*overrides, f"eval.seen_bias={bias:.9f}")
    report = evaluated(tiny, tmp_path, *overrides)
    plan = tiny.plan(*overrides)
    found = [predicted(class_scores(scorer, data.image(i), plan.config.eval, 2, CPU.device)) for i in range(len(data))]
    wanted = slow_scores(found, [data.labels(i, "all") for i in range(len(data))])
    for name in ("sIoU", "uIoU", "hIoU", "pixel_accuracy"):
        assert getattr(report, name) == pytest.approx(wanted[name], abs=0.006), name
    assert [c.IoU for c in report.classes] == pytest.approx(wanted["IoU"], abs=0.006)
    assert [c.pixels for c in report.classes] == wanted["pixels"]
    assert len({tuple(np.unique(f).tolist()) for f in found}) > 1 or len(np.unique(found[0])) > 1


def test_the_report_says_what_was_scored(tiny: Tiny, tmp_path: Path) -> None:
    report = evaluated(tiny, tmp_path)
    assert [(c.name, c.seen) for c in report.classes] == [
        ("disc", True), ("stripes", True), ("box", False), ("cross", False)
    ]  # fmt: skip
    assert report.split == "official" and report.split_hash == tiny.plan().vocabulary.split_hash
    assert report.scored == "student" and report.images == 6 and report.bad == ()
    assert report.settings.seen_bias == 0.0
    assert report.settings.pictures == 0
    assert report.about["provenance"]["fingerprint"] == tiny.plan().fingerprint("train")
    counted = report.supported.counted
    assert counted == tuple(c.name for c in report.classes if c.pixels >= 100)
    assert Location(str(tmp_path)).get_mark("report.json") == report.model_dump(mode="json")


def test_the_confusion_matrix_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    report = evaluated(tiny, tmp_path)
    kept = json.loads((tmp_path / "confusion.json").read_text())
    counts = np.array(kept["counts"])
    assert kept["classes"] == ["disc", "stripes", "box", "cross"]
    assert counts.sum(axis=1).tolist() == [c.pixels for c in report.classes]
    accuracy = 100 * np.trace(counts) / counts.sum()
    assert report.pixel_accuracy == pytest.approx(accuracy, abs=0.006)


def test_a_picture_grid_of_the_size_asked_for_is_drawn(tiny: Tiny, tmp_path: Path) -> None:
    sizes = {}
    for rows in (1, 2):
        evaluated(tiny, tmp_path / str(rows), f"eval.pictures={rows}")
        sizes[rows] = Image.open(io.BytesIO((tmp_path / f"{rows}/grid.png").read_bytes())).size
    assert sizes[1][0] == sizes[2][0] and sizes[2][1] > 1.4 * sizes[1][1]
    evaluated(tiny, tmp_path / "0", "eval.pictures=0")
    assert not (tmp_path / "0/grid.png").exists() and not (tmp_path / "0/confusion.png").exists()
    assert (tmp_path / "1/confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_seen_bias_favours_unseen_classes_and_is_reported(tiny: Tiny, tmp_path: Path) -> None:
    plain = evaluated(tiny, tmp_path / "a")
    biased = evaluated(tiny, tmp_path / "b", "eval.seen_bias=1000.0")
    assert biased.sIoU == 0 and biased.settings.seen_bias == 1000.0
    assert biased.uIoU >= plain.uIoU


def test_the_curve_over_the_seen_bias_says_what_another_bias_would_score(tiny: Tiny, tmp_path: Path) -> None:
    plain = evaluated(tiny, tmp_path / "plain")
    curve = read_biases(Location(str(tmp_path / "plain")))
    assert len(curve) == 201 and curve[100] == {"bias": 0.0, **{k: getattr(plain, k) for k in SCORES}}
    # Half way between two points, where rounding moves no pixel across.
    bias = (curve[120]["bias"] + curve[121]["bias"]) / 2
    other = evaluated(tiny, tmp_path / "other", f"eval.seen_bias={bias}")
    again = read_biases(Location(str(tmp_path / "other")))
    assert again[100]["bias"] == pytest.approx(bias, abs=1e-5) and again[100]["hIoU"] == other.hIoU
    low, high = sorted((curve[120]["uIoU"], curve[121]["uIoU"]))
    assert low - 0.5 <= (other.uIoU or 0.0) <= high + 0.5 and curve[0]["uIoU"] < curve[-1]["uIoU"]


def test_the_report_says_how_often_the_surest_pixels_are_wrong(tiny: Tiny) -> None:
    report = tiny.run("eval")["report"]
    assert report.risk is not None and report.risk.points[0].coverage == 100
    assert report.risk.points[0].risk == pytest.approx(100 - report.pixel_accuracy, abs=0.02)
    plan = tiny.plan()
    page = (plan.address("train").get("report.html") or b"").decode()
    assert "risk-coverage" in page and f"{report.risk.aurc} % wrong" in page
    assert f"<code>{report.settings.as_predict()} --threshold</code>" in page
    assert f"AURC {report.risk.aurc:.1f} %" in eval_text(plan, {"report": report, "address": "there"})


def test_a_class_without_an_evaluation_pixel_is_marked_and_left_out_of_the_means(fresh_tiny: Tiny, tiny: Tiny) -> None:
    for mask in (fresh_tiny.data / "SegmentationClass").glob("val*.png"):
        values = np.array(Image.open(mask))
        values[values == 4] = 0
        Image.fromarray(values).save(mask)
    # Nothing is ever predicted as seen, and cross (unseen) never as well: its text embedding is box's opposite.
    report = evaluated(tiny, fresh_tiny.root / "out", "eval.seen_bias=1000.0", data=fresh_tiny.data)
    box, cross = report.classes[2], report.classes[3]
    assert box.support and box.pixels > 0
    assert not cross.support and cross.pixels == 0
    assert cross.IoU in (None, 0.0)  # 0 where it was predicted somewhere, else no number at all
    assert report.uIoU == pytest.approx(box.IoU / 2 if cross.IoU == 0.0 else box.IoU, abs=0.006)
    assert "cross" not in report.supported.counted


def test_a_table_marks_what_has_no_number() -> None:
    from stages.parts.scoring.metrics import scores

    counts = np.zeros((3, 3), np.int64)
    counts[0, 0], counts[0, 1] = 6, 2  # class 2 neither there nor predicted; class 1 predicted only
    found = scores(counts, 2)
    rows = class_rows(found, ("a", "b", "c"), 2)
    assert [c.IoU for c in rows] == [75.0, 0.0, None]
    assert [c.support for c in rows] == [True, False, False]
    assert means(found) == {"sIoU": 37.5, "uIoU": None, "hIoU": None, "pixel_accuracy": 75.0}
    assert per_cent(float("nan")) is None and per_cent(1 / 3) == 33.33


def test_another_split_than_the_students_is_refused_not_scored(fresh_tiny: Tiny, tiny: Tiny) -> None:
    toml = fresh_tiny.data / "classes.toml"
    toml.write_text(toml.read_text().replace('unseen = ["box", "cross"]', 'unseen = ["box", "stripes"]'))
    with pytest.raises(InputError, match=r"trained on other seen classes than split 'official' has \(.*cross"):
        evaluated(tiny, fresh_tiny.root / "out", data=fresh_tiny.data)
    assert not (fresh_tiny.root / "out/report.json").exists()


def test_other_text_embeddings_than_the_students_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("extract", 'teacher.prompts=""')
    with pytest.raises(
        InputError, match=r"trained with other text embeddings than .*; use its own teacher and prompts"
    ):
        evaluated(tiny, tmp_path, 'teacher.prompts=""')


def test_a_teacher_of_another_width_is_refused(tiny: Tiny, fresh_tiny: Tiny) -> None:
    from cache.store import Artifact

    text = Artifact(Location(str(fresh_tiny.root)).child("text-0.zarr"), "text")
    text.create({"stage": "extract", "preset": "x", "dtype": "float32", "seen": list("abcdefgh")})
    text.write(0, [], {"seen": np.ones((2, 16), np.float32), "unseen": np.ones((2, 16), np.float32)}, {})
    tiny.run("train")
    plan = tiny.plan()
    with pytest.raises(InputError, match="other text embeddings"):
        stage.run(
            plan.config.eval, plan.val_data, text, plan.address("train"), Location(str(fresh_tiny.root / "out")),
            compute=CPU,
        )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_evaluation_images_are_set_aside_by_name_up_to_the_limit(
    fresh_tiny: Tiny, tiny: Tiny, workers: int
) -> None:
    (fresh_tiny.data / "JPEGImages/val02.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"val02\.jpg: can't be decoded \(empty file\).*data\.max_bad allows 0"):
        evaluated(tiny, fresh_tiny.root / "out", data=fresh_tiny.data)
    assert not (fresh_tiny.root / "out/report.json").exists()
    tiny.run("train")
    plan = tiny.plan("data.max_bad=1", data=fresh_tiny.data)
    out = Location(str(fresh_tiny.root / "out"))
    run_at, compute = tiny.plan().address("train"), Compute(torch.device("cpu"), workers)
    report = stage.run(plan.config.eval, plan.val_data, plan.artifact("text"), run_at, out, compute=compute)
    assert report.images == 5 and len(report.bad) == 1 and "val02.jpg" in report.bad[0]


def test_the_background_is_scored_beside_the_other_scores_and_changes_none(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("train")
    run_at, seen_alone = tiny.plan().address("train"), evaluated(tiny, tmp_path / "without")
    plan = tiny.plan("eval.pictures=1", "eval.background=true")
    text, data = plan.artifact("text"), plan.val_data
    out = Location(str(tmp_path / "with"))
    report = stage.run(plan.config.eval, data, text, run_at, out, train=plan.train_data, compute=CPU)
    same = {"sIoU", "uIoU", "hIoU", "pixel_accuracy", "classes", "supported", "risk"}
    assert report.model_dump(include=same) == seen_alone.model_dump(include=same)
    found = report.background
    assert seen_alone.background is None and found is not None and found.form == "classes-5" and found.kept == 95
    # By the book: the same threshold by `predict`'s own rule, five classes, mean over all of them.
    checkpoint = load_student(run_at)
    scorer = student_scorer(checkpoint.student, all_text(text, data.vocabulary, checkpoint, "run"))
    counts = np.zeros((5, 5), np.int64)
    alpha = plan.config.pixel_loss.alpha
    for i in range(len(data)):
        best = class_scores(scorer, data.image(i), plan.config.eval, 2, CPU.device).max(0)
        labels = np.where((best.values * alpha).sigmoid().numpy() < found.threshold, 4, best.indices.numpy())
        raw = np.array(Image.open(data.records[i].mask))
        truth = np.where(raw == 0, 4, data.labels(i, "all"))
        assert (data.labels(i, "background") == truth).all()
        counts += confusion(labels, truth, 5)
    iou = scores(counts, 2).iou
    assert found.mIoU == pytest.approx(100 * iou.mean(), abs=0.1) and found.IoU == pytest.approx(100 * iou[4], abs=0.1)
    assert 0 < found.mIoU <= found.best.mIoU and "classes-5" in eval_text(plan, {"report": report, "address": str(out)})
    teacher = stage.run_teacher(
        plan.config.eval,
        plan.cache_recipe,
        data,
        text,
        Location(str(tmp_path / "t")),
        train=plan.train_data,
        compute=CPU,
    )
    assert teacher.background is not None and teacher.background.kept == 95


def test_a_threshold_that_is_given_is_taken_and_one_that_cannot_be_fitted_is_asked_for(
    tiny: Tiny, tmp_path: Path
) -> None:
    given = evaluated(tiny, tmp_path / "given", "eval.background=true", "eval.background_threshold=0.3")
    assert given.background is not None and given.background.kept is None
    assert given.background.threshold == pytest.approx(0.3, abs=1e-3)
    with pytest.raises(InputError, match=r"no labelled pixel.*eval\.background_threshold"):
        evaluated(tiny, tmp_path / "none", "eval.background=true")


def test_the_teacher_is_scored_by_the_same_code(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("extract")
    plan = tiny.plan()
    report = stage.run_teacher(
        plan.config.eval, plan.cache_recipe, plan.val_data, plan.artifact("text"), Location(str(tmp_path)), compute=CPU
    )
    assert report.scored == "teacher, training-free" and report.recipe == "vanilla"
    assert [c.pixels for c in report.classes] == [
        sum(int((plan.val_data.labels(i, "all") == c).sum()) for i in range(6)) for c in range(4)
    ]
