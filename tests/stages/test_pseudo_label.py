"""Claims about pseudo labels: what the teacher is sure of, by seen names alone, teaches photos without masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from cache.errors import InputError
from pipeline import run, score
from pipeline.machine import Machine
from pipeline.upkeep import cache_tools
from stages import pseudo_label as stage
from stages.parts.mining.pseudo import pseudo_labels
from stages.parts.settings import PseudoLabelConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tiny

NONE = ("data.label_share=0", "data.split=none", "pixel-loss.pseudo_weight=1.0", "pseudo-label.confidence=0.3")
CPU = Machine("cpu", 0)


def named(tiny: Tiny, *settings: str, artifacts: Path | None = None) -> dict[str, Any]:
    tiny.run("extract", *settings, artifacts=artifacts)
    return run.pseudo_label(tiny.plan(*settings, artifacts=artifacts), CPU)


def test_a_cell_is_named_where_one_name_is_certain_and_nowhere_else() -> None:
    text = np.eye(3, 4, dtype=np.float32)
    cells = np.array([[[9, 0, 0, 0], [0, 0.2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]], np.float32)
    found = pseudo_labels(cells, text, PseudoLabelConfig(confidence=0.9))
    assert found.dtype == np.uint8 and found.tolist() == [[0, 1, 255, 255]]
    # Probabilities of the second cell: 1 against e^(-1/T) twice.
    half = PseudoLabelConfig(confidence=0.5, temperature=2.0)
    assert pseudo_labels(cells, text, half).tolist() == [[255, 255, 255, 255]]
    third = PseudoLabelConfig(confidence=0.45, temperature=2.0)
    assert pseudo_labels(cells, text, third).tolist() == [[0, 1, 255, 255]]
    assert 1 / (1 + 2 * np.exp(-0.5)) == pytest.approx(0.4519, abs=1e-4)


def test_stored_labels_are_those_of_the_stored_tokens(tiny: Tiny, tmp_path: Path) -> None:
    found = named(tiny, *NONE, artifacts=tmp_path)["summary"]
    plan = tiny.plan(*NONE, artifacts=tmp_path)
    text, labels = plan.artifact("text").read(0)["seen"], plan.artifact("pseudo").load(["labels"])["labels"]
    dense = np.concatenate([plan.artifact("dense").read(s, ["dense"])["dense"] for s in range(3)])
    for cells, tokens in zip(labels, dense, strict=True):
        np.testing.assert_array_equal(cells, pseudo_labels(tokens, text, plan.config.pseudo_label))
    assert len(text) == 4 and found["views"] == len(labels) == 12
    assert found["cells"] == np.bincount(labels[labels != 255], minlength=4).tolist()
    assert 0 < found["share"] < 1 and found["share"] == pytest.approx((labels != 255).mean(), abs=1e-4)
    assert cache_tools.verify(str(tmp_path))["faults"] == []
    assert any("pseudo" in name for e in cache_tools.entries(str(tmp_path)) if e.kind == "text" for name in e.used_by)


def test_without_stored_dense_tokens_they_are_encoded_again(tiny: Tiny, tmp_path: Path) -> None:
    for name, stored in (("a", "true"), ("b", "false")):
        named(tiny, *NONE, f"extract.store_dense={stored}", artifacts=tmp_path / name)
    a, b = (tiny.plan(*NONE, artifacts=tmp_path / name).artifact("pseudo").load(["labels"])["labels"] for name in "ab")
    np.testing.assert_array_equal(a, b)


def test_a_stop_changes_no_bit(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(tiny, *NONE, artifacts=tmp_path / "a")
    made, calls = pseudo_labels, 0

    def stopped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # in the second shard
            raise KeyboardInterrupt
        return made(*arguments)

    plan = tiny.plan(*NONE, artifacts=tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "pseudo_labels", stopped)
        with pytest.raises(KeyboardInterrupt):
            named(tiny, *NONE, artifacts=tmp_path / "b")
    step = next(s for s in plan.steps() if s.stage == "pseudo-label")
    assert not step.done and "1/3 shards" in step.detail
    assert named(tiny, *NONE, artifacts=tmp_path / "b")["summary"]["views"] == 12
    a, b = (tiny.plan(*NONE, artifacts=tmp_path / name).artifact("pseudo").load(["labels"])["labels"] for name in "ab")
    np.testing.assert_array_equal(a, b)
    assert run.pseudo_label(plan, CPU)["already_complete"]


def test_unseen_names_and_masks_reach_no_pseudo_label(tiny: Tiny, tmp_path: Path) -> None:
    some = ("data.label_share=0.5", *NONE[2:])
    tiny.run("mine-latent", *some, artifacts=tmp_path)
    plan = tiny.plan(*some, artifacts=tmp_path)
    text = plan.artifact("text")
    arrays = text.read(0)
    text.discard(0)
    text.write(0, [], arrays | {"unseen": np.full_like(arrays["unseen"], np.nan)}, {})
    text.finish({}, 1)
    found = run.pseudo_label(plan, CPU)["summary"]
    assert len(found["cells"]) == 2 and found["share"] > 0
    assert np.isfinite(list(run.train(plan, CPU)["summary"]["losses"].values())).all()


def test_photos_without_masks_learn_from_pseudo_labels(fresh_tiny: Tiny) -> None:
    for name in fresh_tiny.plan().train_data.ids:
        (fresh_tiny.data / "SegmentationClass" / f"{name}.png").unlink()
    fresh_tiny.run("mine-latent", *NONE)
    plan = fresh_tiny.plan(*NONE)
    with pytest.raises(InputError, match="not complete; run `clip2seg pseudo-label "):
        run.train(plan, CPU)
    run.pseudo_label(plan, CPU)
    losses = run.train(plan, CPU)["summary"]["losses"]
    assert losses["cross_entropy"] > 0 and losses["focal"] > 0  # of seen names: latent classes have no pixel loss here
    report = score.evaluate(plan, CPU)["report"]
    assert report.uIoU is None and report.sIoU is not None and len(report.classes) == 4


def test_inspection_shows_pseudo_labels_and_says_how_many_are_right(tiny: Tiny, tmp_path: Path) -> None:
    from pipeline.inspection.opened import Inspection
    from pipeline.inspection.questions import ask

    named(tiny, *NONE, artifacts=tmp_path)
    of = Inspection(tiny.plan(*NONE, artifacts=tmp_path), CPU, str(tmp_path))
    text, _ = ask(of, "quality", "", count=0, full_labels=False, vocabulary="")
    assert "no label says whether they are right" in text
    text, found = ask(of, "quality", "", count=0, full_labels=True, vocabulary="")
    right = total = pixels = sure = 0
    data, labels = of.plan.train_data, of.plan.artifact("pseudo").load(["labels"])["labels"]
    for i, cells in enumerate(labels):
        truth = data.labels(i, "all")
        y, x = (((np.arange(n) + 0.5) * 8 / n).astype(int) for n in truth.shape)
        given = cells[y[:, None], x[None]]
        right += int((given == truth)[truth != 255].sum())
        total += int(((given != 255) & (truth != 255)).sum())
        pixels, sure = pixels + truth.size, sure + int((given != 255).sum())
    assert found["pseudo"]["checked"] == total
    assert found["pseudo"]["share"] == pytest.approx(100 * sure / pixels, abs=0.01)
    assert found["pseudo"]["right"] == pytest.approx(100 * right / total, abs=0.01)
    assert f"{found['pseudo']['right']} % of them right" in text
    text, found = ask(of, "image", data.ids[0], count=-1, full_labels=False, vocabulary="")
    assert (tmp_path / found["picture"].rsplit("/", 1)[-1]).is_file()


def test_pseudo_labels_alone_train_without_distillation(tiny: Tiny, tmp_path: Path) -> None:
    bare = (*NONE, "distill.loss=none", "latent-embedding.enabled=false")
    tiny.run("extract", *bare, artifacts=tmp_path)  # and no mining
    run.pseudo_label(tiny.plan(*bare, artifacts=tmp_path), CPU)
    losses = run.train(tiny.plan(*bare, artifacts=tmp_path), CPU)["summary"]["losses"]
    assert set(losses) == {"total", "focal", "dice", "cross_entropy"} and losses["cross_entropy"] > 0


def test_one_name_is_refused_and_so_is_the_online_teacher(fresh_tiny: Tiny) -> None:
    words = fresh_tiny.data / "classes.toml"
    one = words.read_text().replace('unseen = ["box", "cross"]', 'unseen = ["box", "cross", "stripes"]')
    with pytest.raises(InputError, match="pseudo_weight reads pseudo labels from the cache"):
        run.train(fresh_tiny.plan(*NONE), CPU, online=True)
    words.write_text(one)
    alone = ("data.label_share=0.5", "pixel-loss.pseudo_weight=1.0")
    fresh_tiny.run("extract", *alone)
    with pytest.raises(InputError, match="one seen name alone"):
        run.pseudo_label(fresh_tiny.plan(*alone), CPU)


def test_labelled_photos_keep_their_labels_and_their_loss(tiny: Tiny, tmp_path: Path) -> None:
    from stages.parts.learning.batches import TrainingSet, collate
    from stages.running.cached_teacher import CachedTeacher

    some = ("data.label_share=0.5", "data.labelled_classes={disc=0.25}", *NONE[2:])
    named(tiny, *some, artifacts=tmp_path)
    run.mine_latent(tiny.plan(*some, artifacts=tmp_path), CPU)
    plan = tiny.plan(*some, artifacts=tmp_path)
    teacher = CachedTeacher(plan.tiers(), CPU.compute, pseudo_labels=True)
    made = TrainingSet(plan.train_data, plan.config.views, 2, teacher.tokens(2, 12), seed=0, photometric=False)
    batch = collate([made[i, 0] for i in range(12)])
    assert batch.pseudo is not None and sum(batch.labelled) == 6
    for own, pseudo in zip(batch.labelled, batch.pseudo, strict=True):
        assert own == bool((pseudo == 255).all())
    assert batch.withheld is not None
    # A class that a mask says nothing of has no column there; a pseudo label needs its own.
    assert {own for own, hidden in zip(batch.labelled, batch.withheld, strict=True) if hidden.any()} == {True}
    half = batch.part(1, 2)
    assert half.pseudo is not None and torch.equal(half.pseudo, batch.pseudo[6:])
