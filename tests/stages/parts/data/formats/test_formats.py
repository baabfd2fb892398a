"""Each annotation format, written as its own tools write it, becomes the masks that its objects say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import load_config
from stages.data.importing import import_folder
from stages.data.init import init
from stages.parts.data.datasets import open_dataset
from stages.parts.data.names import read_names
from tests.stages.parts.data.formats.worlds import IN_PLACE, NAMES, NO_LISTS, WRITERS, Scene, scenes, toml_colours


def photo_of(scene: Scene, folder: Path) -> Path:
    """The imported photo of a scene, whatever it is called: by its bytes, or its pixels where it isn't JPEG."""
    same = [path for path in folder.iterdir() if path.read_bytes() == scene.jpeg()]
    same += [path for path in folder.glob("*.png") if np.array_equal(np.asarray(Image.open(path)), scene.photo)]
    (found,) = same
    return found


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_masks(form: str, tmp_path: Path) -> None:
    made = scenes()
    WRITERS[form](tmp_path / "theirs", made)
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert report.bad == () and report.photos == len(made), report
    names = read_names(tmp_path / "new/names.txt")
    assert sorted(n for n in names.values() if n != "void") == sorted(NAMES)
    for scene in made:
        photo = photo_of(scene, tmp_path / "new/images")
        values = np.asarray(Image.open(tmp_path / f"new/masks/{photo.stem}.png"))
        assert values.dtype == np.uint8
        values = np.where(values == 255, 0, values)  # void, in the forms that have it
        drawn = np.array(["", *(names[v] for v in sorted(names))])[np.searchsorted([0, *sorted(names)], values)]
        assert (drawn == scene.names).all(), scene.id
    lists = {name: (tmp_path / f"new/{name}.txt") for name in ("train", "val")}
    if form not in NO_LISTS:
        for name, path in lists.items():
            photos = {photo_of(scene, tmp_path / "new/images").stem for scene in made if scene.subset == name}
            assert set(path.read_text().split()) == photos
    else:
        assert not any(path.exists() for path in lists.values())
    assert init(str(tmp_path / "new")).unnamed == ()


@pytest.mark.parametrize("form", IN_PLACE)
def test_forms_read_where_they_lie(form: str, tmp_path: Path) -> None:
    made = scenes()
    write, called = IN_PLACE[form]
    write(tmp_path / "theirs", made)
    report = init(str(tmp_path / "theirs"))
    assert report.text().startswith("took it for ") and report.bad == () and report.unnamed == ()
    assert report.train + report.val == len(made)
    cfg = load_config(str(report.preset)).data
    shown = 0
    for subset in ("train", "val"):
        data = open_dataset(cfg, subset)
        for i, one in enumerate(data.ids):
            scene = made[int(re.findall(r"\d+", one.replace("_000019", ""))[-1])]
            if form not in ("images + masks", "PASCAL VOC without lists"):
                assert scene.subset == subset
            found = data.labels(i, "all")
            for name, theirs in zip(NAMES, called, strict=True):
                index = data.vocabulary.ordered.index(theirs)
                where = scene.names == name
                where[:2] &= form != "CamVid"
                assert ((found == index) == where).all(), (form, one, name)
            shown += 1
    assert shown == len(made)


def test_cityscapes_and_camvid_bring_their_names_and_say_what_they_ignore(tmp_path: Path) -> None:
    for form, classes, ignored in (("Cityscapes", 19, [4]), ("CamVid", 11, [11]), ("ADE20K", 150, [0])):
        IN_PLACE[form][0](tmp_path / form, scenes())
        report = init(str(tmp_path / form))
        assert len(report.classes) == classes and [c.value for c in report.ignored] == ignored
        assert all(c.train_pixels for c in report.ignored) and "ignored" in report.text()
    assert {c.name for c in report.classes if c.name == "sky"} == {"sky"}


def test_colours_without_a_table_become_classes_to_be_named(tmp_path: Path) -> None:
    made = scenes()
    toml_colours(tmp_path / "theirs", made)
    (tmp_path / "theirs/classes.toml").unlink()
    path = tmp_path / "theirs/masks/p01.png"
    with Image.open(path) as mask:
        smooth = np.asarray(
            mask.resize((mask.width // 2, mask.height // 2)).resize(mask.size, Image.Resampling.BICUBIC)
        )
    Image.fromarray(smooth).save(path)
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert report.classes == 3 and report.named == 0 and report.unknown == 1
    assert any("smoothed" in line for line in report.notes) and "smoothed" in report.text()
    assert "# 1   (colour 30,80,200)" in (tmp_path / "new/names.txt").read_text()
    blue = np.asarray(Image.open(tmp_path / "new/masks/p00.png")) == 1
    assert (blue == (made[0].names == "sheep")).all()
    rim = np.asarray(Image.open(tmp_path / "new/masks/p01.png")) == 255
    assert 0 < rim.sum() < rim.size / 4
    assert len(init(str(tmp_path / "new")).unnamed) == 3


def test_every_row_of_the_page_is_run_by_a_test() -> None:
    page = (Path(__file__).resolve().parents[5] / "docs/data-formats.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| `(data \w+)` \|$", page, re.MULTILINE)
    here = dict.fromkeys(IN_PLACE, "data init") | dict.fromkeys([*WRITERS, "Colours without a table"], "data import")
    assert dict(rows) == here and len(rows) == len(here)
