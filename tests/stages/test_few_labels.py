"""Claims about few labels and none: unlabelled photos take part by distillation, and their masks are never read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from cache.errors import InputError
from pipeline import run
from pipeline.machine import Machine
from stages.parts.learning.batches import Batch, Regions, Sample, collate
from stages.parts.learning.learner import Learner
from stages.parts.learning.losses import pixel_loss
from stages.parts.settings import DistillConfig, GeneratorConfig, PixelLossConfig

if TYPE_CHECKING:
    from tests.conftest import Tiny

SEEN, DIM = 3, 8


def test_shares_are_nested_and_a_list_names_its_photos(fresh_tiny: Tiny) -> None:
    few, half = (fresh_tiny.plan(f"data.label_share={share}").train_data for share in (0.1, 0.5))
    assert (len(few.unlabelled), len(half.unlabelled)) == (11, 6)
    assert few.unlabelled > half.unlabelled
    assert fresh_tiny.plan("data.label_share=0.5").val_data.unlabelled == frozenset()
    (fresh_tiny.data / "ImageSets/Segmentation/mine.txt").write_text("train02\ntrain05\n")
    mine = fresh_tiny.plan("data.labelled=mine")
    assert mine.train_data.unlabelled == set(mine.train_data.ids) - {"train02", "train05"}
    (fresh_tiny.data / "ImageSets/Segmentation/mine.txt").write_text("val00\n")
    with pytest.raises(InputError, match="'val00' is not a training photo"):
        _ = fresh_tiny.plan("data.labelled=mine").train_data
    with pytest.raises(InputError, match=r"data.labelled = 'other': no such list"):
        _ = fresh_tiny.plan("data.labelled=other").train_data


def test_labels_move_what_reads_them_and_leave_maps_where_they_are(tiny: Tiny) -> None:
    every, few = tiny.plan(), tiny.plan("data.label_share=0.5")
    assert tiny.plan("data.label_share=1.0").fingerprint("train") == every.fingerprint("train")
    assert few.fingerprint("dense") == every.fingerprint("dense")
    assert all(few.fingerprint(kind) != every.fingerprint(kind) for kind in ("tokens", "latent", "train"))
    assert tiny.plan("pixel-loss.unlabelled=latent").fingerprint("train") == every.fingerprint("train")
    latent = tiny.plan("data.label_share=0.5", "pixel-loss.unlabelled=latent")
    assert latent.fingerprint("train") != few.fingerprint("train")


def test_no_masks_at_all_are_trained_from_and_masks_that_are_there_change_nothing(fresh_tiny: Tiny) -> None:
    none = ("data.label_share=0", "data.split=none", "pixel-loss.unlabelled=latent")
    for name in fresh_tiny.plan().train_data.ids:
        (fresh_tiny.data / "SegmentationClass" / f"{name}.png").unlink()
    summary = fresh_tiny.run("train", *none)["summary"]
    assert summary["images"] == 12 and np.isfinite(list(summary["losses"].values())).all()
    assert summary["losses"]["cross_entropy"] > 0  # of the latent columns
    report = fresh_tiny.run("eval", *none)["report"]
    assert report.uIoU is None and report.sIoU is not None and len(report.classes) == 4
    assert (fresh_tiny.plan(*none).artifact("tokens").summary() or {})["regions"] == 0


def test_some_labels_train_and_other_photos_need_no_mask(fresh_tiny: Tiny) -> None:
    few = ("data.label_share=0.5",)
    unlabelled = fresh_tiny.plan(*few).train_data.unlabelled
    for name in unlabelled:
        (fresh_tiny.data / "SegmentationClass" / f"{name}.png").write_bytes(b"poison: not to be read")
    assert fresh_tiny.run("train", *few)["summary"]["images"] == 12
    with pytest.raises(InputError):
        run.extract(fresh_tiny.plan(), Machine("cpu", 0))


def test_masks_of_one_class_are_read_in_some_photos_alone(fresh_tiny: Tiny) -> None:
    (fresh_tiny.data / "ImageSets/Segmentation/some.txt").write_text("train00\ntrain03\n")
    plain, told = fresh_tiny.plan(), fresh_tiny.plan('data.labelled_classes={disc="some"}')
    disc = plain.vocabulary.seen.index("disc")
    for i, name in enumerate(plain.train_data.ids):
        before, after = plain.train_data.labels(i, "seen"), told.train_data.labels(i, "seen")
        if name in ("train00", "train03"):
            assert (before == after).all() and told.train_data.hidden(name) == ()
        else:
            assert (after[before == disc] == 255).all() and (after[before != disc] == before[before != disc]).all()
            assert told.train_data.hidden(name) == (disc,)
    assert told.val_data.withheld == {}
    none, every = (fresh_tiny.plan(f"data.labelled_classes={{disc={share}}}").train_data for share in (0, 1))
    assert len(none.withheld["disc"]) == 12 and every.withheld == {}
    assert every.digest == plain.train_data.digest and every.labelled_ingredient() == {}


def test_a_list_of_one_class_that_cannot_be_meant_is_refused(fresh_tiny: Tiny) -> None:
    (fresh_tiny.data / "ImageSets/Segmentation/some.txt").write_text("train00\ntrain03\n")
    (fresh_tiny.data / "ImageSets/Segmentation/one.txt").write_text("train00\n")
    for overrides, said in (
        (('data.labelled_classes={cross="some"}',), "'cross' is no seen class of split 'official'"),
        (('data.labelled_classes={disc="none"}',), "data.labelled_classes.disc = 'none': no such list"),
        (('data.labelled_classes={disc="some"}', "data.labelled=one"), "lists 'train03', whose mask"),
    ):
        with pytest.raises(InputError, match=said):
            _ = fresh_tiny.plan(*overrides).train_data
    with pytest.raises(InputError, match="labelled_classes"):
        fresh_tiny.plan("data.labelled_classes={disc=2}")


def test_labels_of_a_drawn_world_are_chosen_as_those_of_a_folder(tiny: Tiny, tmp_path: Path) -> None:
    world = ("data.vocabulary=demo", "data.root=''", "demo-world.seed=1", "demo-world.train=10", "demo-world.val=1")
    plain, few = (tiny.plan(*world, *more, artifacts=tmp_path) for more in ((), ("data.label_share=0.3",)))
    assert len(few.train_data.unlabelled) == 7 and few.fingerprint("tokens") != plain.fingerprint("tokens")
    assert few.fingerprint("dense") == plain.fingerprint("dense") and not few.val_data.unlabelled
    ball = tiny.plan(*world, "data.labelled_classes={ball=0.3}", artifacts=tmp_path)
    assert ball.train_data.withheld == {"ball": few.train_data.unlabelled}


def test_labelled_photos_are_drawn_as_often_as_asked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def noting(samples: list[Sample]) -> Batch:
        drawn.append(sum(bool(sample.labelled) for sample in samples))
        return collate(samples)

    monkeypatch.setattr("stages.running.cached_teacher.collate", noting)
    few = "data.label_share=0.25"
    tiny.run("train", few, "train.labelled_per_batch=2")
    assert set(drawn) == {2}
    assert tiny.plan(few).fingerprint("train") != tiny.plan(few, "train.labelled_per_batch=2").fingerprint("train")
    assert tiny.plan().fingerprint("train") == tiny.plan("train.labelled_per_batch=2").fingerprint("train")
    with pytest.raises(InputError, match="labelled_per_batch = 5 must be at most batch = 4"):
        tiny.plan(few, "train.labelled_per_batch=5")
    with pytest.raises(InputError, match="the masks of 0 training photos are read"):
        tiny.run("train", "data.label_share=0", "train.labelled_per_batch=2")


def test_a_photo_says_nothing_of_a_class_whose_masks_are_not_read_but_where_it_names_another() -> None:
    for ignored_are_negatives in (True, False):
        made = learner("none", ignored_are_negatives)
        of = replace(batch(()), withheld=torch.tensor([[k in (0, 2) for k in range(SEEN)], [False] * SEEN]))
        features = torch.randn(2, DIM, 4, 4)
        logits = torch.einsum("bdhw,kd->bkhw", features, torch.randn(SEEN + 2, DIM)).requires_grad_()
        total = sum(made._pixel_terms(logits, of.masks, of).values())
        assert isinstance(total, torch.Tensor) and total.isfinite()
        total.backward()
        assert logits.grad is not None
        told = logits.grad[0]  # the upper half is of class 1, the lower one of a latent class
        assert not told[[0, 2], 3].any() and (told[[0, 2], 0] > 0).all() and told[1, 0].all()
        assert (logits.grad[1, :SEEN] != 0).all()


def test_training_hands_on_which_classes_a_photo_says_nothing_of(
    fresh_tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[bool]] = []
    real = pixel_loss

    def noting(*given: Any, withheld: torch.Tensor, **more: Any) -> Any:
        seen.extend(withheld.tolist())
        return real(*given, withheld=withheld, **more)

    monkeypatch.setattr("stages.parts.learning.learner.pixel_loss", noting)
    (fresh_tiny.data / "ImageSets/Segmentation/some.txt").write_text("train00\ntrain03\n")
    fresh_tiny.run("train", 'data.labelled_classes={disc="some"}', "train.grad_accumulation_steps=2")
    assert len(seen) == 24 and sum(not any(hidden) for hidden in seen) == 4  # six batches of four: twice all photos


def learner(unlabelled: str, ignored_are_negatives: bool = True) -> Learner:
    torch.manual_seed(0)
    student = torch.nn.Conv2d(3, DIM, 8, 8)
    made = Learner(
        student,
        torch.nn.functional.normalize(torch.randn(SEEN, DIM), dim=1),
        DistillConfig(),
        GeneratorConfig(dropout=0.0),
        PixelLossConfig(unlabelled=unlabelled, ignored_are_negatives=ignored_are_negatives),  # type: ignore[arg-type]
    )
    return made.eval()


def batch(labelled: tuple[bool, ...]) -> Batch:
    torch.manual_seed(1)
    masks = torch.full((2, 32, 32), 255, dtype=torch.uint8)
    masks[0, :16], masks[0, 16:] = 1, SEEN
    masks[1, :16], masks[1, 16:] = SEEN, SEEN + 1
    regions = Regions.of([[1, SEEN], [SEEN, SEEN + 1]], [-1] * 4)
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(
        images, torch.zeros(2, 0), masks, torch.randn(2, DIM), torch.randn(len(regions), DIM), regions, labelled
    )


def pixel_terms(made: Learner, of: Batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in made(of).items() if name in ("focal", "dice", "cross_entropy")}


def test_no_score_of_a_seen_class_is_told_anything_by_a_photo_without_labels() -> None:
    for unlabelled in ("none", "latent"):
        made, of = learner(unlabelled), batch((False, False))
        features = torch.randn(2, DIM, 4, 4, requires_grad=True)
        logits = torch.einsum("bdhw,kd->bkhw", features, torch.randn(SEEN + 2, DIM))
        logits.retain_grad()
        total = sum(made._pixel_terms(logits, of.masks, of).values())
        assert isinstance(total, torch.Tensor) and total.isfinite()
        total.backward()
        assert logits.grad is not None and not logits.grad[:, :SEEN].any()
        assert bool(logits.grad[:, SEEN:].any()) == (unlabelled == "latent")


def test_all_labelled_is_the_loss_without_the_question_and_both_kinds_add_up() -> None:
    made = learner("latent")
    plain, asked = pixel_terms(made, batch(())), pixel_terms(made, batch((True, True)))
    assert all(torch.isclose(plain[name], asked[name], atol=1e-6) for name in plain)
    mixed = pixel_terms(made, batch((True, False)))
    alone = pixel_terms(learner("none"), batch((True, False)))
    assert all(mixed[name] > alone[name] > 0 for name in ("focal", "cross_entropy"))
