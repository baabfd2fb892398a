"""Claims about photos without masks: names alone make a preset that every stage but eval runs with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from cache.errors import InputError
from pipeline import run, score
from pipeline.cli import app
from pipeline.machine import Machine
from pipeline.plan import Plan
from stages.data.init_names import init_names, is_bare

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Machine("cpu", 0)


@pytest.fixture
def photos(tiny: Tiny, tmp_path: Path) -> Path:
    """A folder of photos and nothing else."""
    shutil.copytree(tiny.data / "JPEGImages", tmp_path / "pets/images")
    return tmp_path / "pets"


def test_photos_and_names_are_trained_from(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    made = init_names(str(photos), names="disc, box | crate, stripes", teacher=f"local-dir:{tiny.teacher}")
    assert made.text().startswith("18 photos and no mask: 3 names to find, disc, box, stripes")
    small = ["views.size=64", "teacher.input_size=64", "student.weights=", "affinity.weights=", "train.batch=4"]
    small += ["train.iterations=3", "train.warmup=1", "train.precision=fp32", "mine-latent.windows=[2]"]
    plan = Plan.open(str(made.preset), [*small, "pseudo-label.confidence=0.34"], str(tmp_path / "artifacts"))
    assert plan.vocabulary.seen == ("disc", "box", "stripes") and plan.vocabulary.unseen == ()
    assert plan.reads_pseudo_labels and plan.config.refine.affinity == "network"
    with pytest.raises(InputError, match="no evaluation photo has a mask"):
        score.evaluate(plan, CPU)
    for stage in (run.extract, run.mine_latent, run.pseudo_label, run.train):
        result = stage(plan, CPU)
    assert result["summary"]["losses"]["total"] > 0


def test_names_come_from_a_file_and_edits_stay(photos: Path) -> None:
    (photos.parent / "names.txt").write_text("a cat\ndog\n")
    made = init_names(str(photos), names=str(photos.parent / "names.txt"))
    assert made.json()["names"] == ("a cat", "dog")
    before = made.preset.read_text()
    with pytest.raises(InputError, match="is there already; edit it, or give --force"):
        init_names(str(photos), names="a cat, dog, cow")
    assert made.preset.read_text() == before
    assert init_names(str(photos), names="a cat, dog, cow", force=True).json()["names"][-1] == "cow"


def test_what_is_missing_is_said(photos: Path) -> None:
    said = CliRunner().invoke(app, ["data", "init", str(photos)])
    assert isinstance(said.exception, InputError) and '--names "cat, dog, grass"' in str(said.exception)
    with pytest.raises(InputError, match="one name alone"):
        init_names(str(photos), names="cat")
    assert is_bare(str(photos))
    (photos / "masks").mkdir()
    assert not is_bare(str(photos))
