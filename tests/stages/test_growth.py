"""Claims about data that grow and change: what does not depend on the change is not made again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import InputError
from cache.store import Artifact
from pipeline import run, score
from pipeline.machine import Machine
from stages.parts.mining.miner import Miner
from stages.parts.teacher.teacher import Teacher

if TYPE_CHECKING:
    from tests.conftest import Tiny

MACHINE = Machine("cpu", 0)
LIST = "ImageSets/Segmentation/train.txt"


class Asked:
    """Counts what the teacher is asked to encode, and what is mined. The black picture of its own check is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.views = self.crops = self.mined = 0
        views, crops, mine = Teacher.encode_views, Teacher.encode_crops, Miner.mine

        def encode_views(teacher: Teacher, pixels: torch.Tensor) -> object:
            self.views += len(pixels) if pixels.any() else 0
            return views(teacher, pixels)

        def encode_crops(teacher: Teacher, pixels: torch.Tensor) -> object:
            self.crops += len(pixels) if pixels.any() else 0
            return crops(teacher, pixels)

        def mined(miner: Miner, *of: object) -> object:
            self.mined += 1
            return mine(miner, *of)  # type: ignore[arg-type]

        monkeypatch.setattr(Teacher, "encode_views", encode_views)
        monkeypatch.setattr(Teacher, "encode_crops", encode_crops)
        monkeypatch.setattr(Miner, "mine", mined)

    def reset(self) -> None:
        self.views = self.crops = self.mined = 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def listed(tiny: Tiny) -> list[str]:
    return (tiny.data / LIST).read_text().split()


def relist(tiny: Tiny, ids: list[str]) -> None:
    (tiny.data / LIST).write_text("\n".join(ids) + "\n")


def same(one: Artifact, other: Artifact) -> bool:
    """Whether two artifacts hold the same views and, but for the last bits, the same arrays."""
    a, b = one.load(list(one.table)), other.load(list(other.table))
    return one.ids() == other.ids() and all(
        x.shape == b[k].shape and np.allclose(x, b[k], atol=1e-5) for k, x in a.items()
    )


@pytest.mark.parametrize("views", ["views.count=1", "views.count=2"])
def test_photos_that_are_added_anywhere_cost_their_own_work_alone(
    fresh_tiny: Tiny, tmp_path: Path, asked: Asked, views: str
) -> None:
    every, count = listed(fresh_tiny), int(views[-1])
    relist(fresh_tiny, every[:5] + every[6:11])
    fresh_tiny.run("mine-latent", views)
    asked.reset()
    relist(fresh_tiny, every)  # one in the middle and one at the end
    result = fresh_tiny.run("mine-latent", views)
    assert (asked.views, asked.mined) == (2 * count, 2 * count)
    assert result["summary"]["views"] == 12 * count
    grown = fresh_tiny.plan(views)
    assert (grown.artifact("tokens").summary() or {})["copied"] == 10 * count
    # A shard that no new photo came into is stored once.
    first = "shards/00000/dense/c/0/0/0/0"
    assert [f.stat().st_nlink for f in sorted(fresh_tiny.artifacts.glob(f"tiny/dense-*/{first}"))] == [2, 2]
    fresh_tiny.run("mine-latent", views, artifacts=tmp_path / "anew")
    anew = fresh_tiny.plan(views, artifacts=tmp_path / "anew")
    for kind in ("tokens", "dense", "latent"):
        assert same(grown.artifact(kind), anew.artifact(kind)), kind
    about = [(plan.artifact("latent").summary() or {}) for plan in (grown, anew)]
    assert about[0]["covered_share"] == about[1]["covered_share"]


def test_a_photo_that_changed_is_made_anew_and_of_a_mask_its_regions(
    fresh_tiny: Tiny, tmp_path: Path, asked: Asked
) -> None:
    fresh_tiny.run("extract")
    photo = fresh_tiny.data / "JPEGImages" / "train03.jpg"
    photo.write_bytes(photo.read_bytes() + b"\0")  # another size, so another list of photos
    mask = fresh_tiny.data / "SegmentationClass" / "train04.png"
    changed = np.array(Image.open(mask))
    changed[changed == 1] = 3
    Image.fromarray(changed).save(mask)
    asked.reset()
    fresh_tiny.run("extract")
    assert asked.views == 1 and 2 <= asked.crops <= 4
    fresh_tiny.run("extract", artifacts=tmp_path / "anew")
    anew = fresh_tiny.plan(artifacts=tmp_path / "anew")
    assert all(same(fresh_tiny.plan().artifact(kind), anew.artifact(kind)) for kind in ("tokens", "dense"))


def test_other_unseen_classes_leave_maps_where_they_are_and_encode_no_image_again(
    fresh_tiny: Tiny, tmp_path: Path, asked: Asked
) -> None:
    fresh_tiny.run("extract")
    plan = fresh_tiny.plan()
    tokens, dense = plan.fingerprint("tokens"), str(plan.address("dense"))
    toml = fresh_tiny.data / "classes.toml"
    toml.write_text(toml.read_text().replace('unseen = ["box", "cross"]', 'unseen = ["cross"]'))
    after = fresh_tiny.plan()
    assert after.fingerprint("tokens") != tokens
    assert str(after.address("dense")) == dense
    asked.reset()
    fresh_tiny.run("mine-latent")
    assert asked.views == 0 and asked.crops > 0  # regions are of other classes now
    fresh_tiny.run("mine-latent", artifacts=tmp_path / "anew")
    anew = fresh_tiny.plan(artifacts=tmp_path / "anew")
    assert all(same(after.artifact(kind), anew.artifact(kind)) for kind in ("tokens", "dense", "latent"))


def test_maps_of_a_photo_that_was_replaced_are_not_taken_for_those_of_the_new_one(fresh_tiny: Tiny) -> None:
    fresh_tiny.run("extract")
    photo = fresh_tiny.data / "JPEGImages" / "train03.jpg"
    data = bytearray(photo.read_bytes())
    data[-3] ^= 1
    photo.write_bytes(data)  # as many bytes: the list's digest is the same
    toml = fresh_tiny.data / "classes.toml"
    toml.write_text(toml.read_text().replace('unseen = ["box", "cross"]', 'unseen = ["cross"]'))
    with pytest.raises(InputError, match="the photo of view train03 is not the one that it was made of"):
        fresh_tiny.run("extract")


def test_a_damaged_earlier_cache_is_left_alone_and_the_work_is_done(fresh_tiny: Tiny, asked: Asked) -> None:
    every = listed(fresh_tiny)
    relist(fresh_tiny, every[:11])
    fresh_tiny.run("extract")
    folder = fresh_tiny.plan().address("tokens").path
    assert folder is not None
    for commit in folder.glob("shards/*/commit.json"):
        commit.write_bytes(commit.read_bytes()[:-20])
    asked.reset()
    relist(fresh_tiny, every)
    assert fresh_tiny.run("extract")["summary"]["views"] == 12
    assert asked.views == 12


def test_a_preset_of_another_name_finds_what_is_there(fresh_tiny: Tiny, asked: Asked) -> None:
    from pipeline.plan import Plan

    fresh_tiny.run("eval")
    renamed = fresh_tiny.root / "renamed.toml"
    fresh_tiny.preset.rename(renamed)
    asked.reset()
    plan = Plan.open(str(renamed), (), str(fresh_tiny.artifacts))
    assert [step.done for step in plan.steps()] == [True] * 4
    assert score.evaluate(plan, MACHINE)["already_complete"]
    # What is new is written to its own folder, scores beside the run that they are of.
    other = Plan.open(str(renamed), ("eval.mode=slide",), str(fresh_tiny.artifacts))
    assert other.address("eval").parent.name == "tiny"
    assert Plan.open(str(renamed), ("train.seed=1",), str(fresh_tiny.artifacts)).address("train").parent.name == (
        "renamed"
    )
    assert (asked.views, asked.crops) == (0, 0)


def test_the_teachers_folder_is_needed_by_what_runs_it_alone(tiny: Tiny, fresh_tiny: Tiny) -> None:
    teacher = fresh_tiny.root / "teacher"
    teacher.unlink()  # a link, whose own place is what a preset names
    shutil.copytree(tiny.teacher, teacher)
    fresh_tiny.run("mine-latent")
    before = fresh_tiny.plan().fingerprint("eval")
    teacher.rename(fresh_tiny.root / "elsewhere")
    assert fresh_tiny.plan().fingerprint("eval") == before
    assert fresh_tiny.run("eval")["report"].images == 6
    with pytest.raises(InputError, match="teacher"):
        run.extract(fresh_tiny.plan("extract.dtype=float16"), MACHINE)
