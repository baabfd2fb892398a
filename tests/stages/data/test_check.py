"""Claims about `clip2seg data check`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from stages.data.check import check
from stages.parts.data.datasets import DataConfig


def write(root: Path, lists: dict[str, dict[str, list[list[int]]]]) -> DataConfig:
    """A VOC folder: list name -> id -> mask values."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, masks in lists.items():
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(masks))
        for one, values in masks.items():
            array = np.array(values, np.uint8)
            Image.fromarray(array).save(root / f"SegmentationClass/{one}.png")
            Image.fromarray(array).convert("RGB").save(root / f"JPEGImages/{one}.jpg")
    return DataConfig(layout="voc", root=str(root), vocabulary="voc")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sound_data_set_has_no_problems_and_its_gaps_are_noted(tmp_path: Path, workers: int) -> None:
    cfg = write(tmp_path, {"train": {"a": [[1, 2, 0]], "b": [[1, 16, 255]]}, "val": {"c": [[1], [16], [16]]}})
    report = check(cfg, workers=workers)
    assert report.problems == ()
    assert (report.train.listed, report.train.official, report.val.official) == (2, 1464, 1449)
    assert report.train.classes.pixels[[0, 1, 15]].tolist() == [2, 1, 1]
    assert report.val.classes.images[[0, 1, 15]].tolist() == [1, 0, 1]
    assert report.val.sides == (1, 3)
    notes = "\n".join(report.notes)
    assert "list train: 2 ids, the official list has 1464" in notes
    assert "seen classes without a training pixel: bird, boat" in notes
    assert "classes without an evaluation pixel: bicycle" in notes
    text = report.text()
    assert "vocabulary voc, split official (52c4aa65): 15 seen + 5 unseen classes" in text
    assert text.endswith("no problem found")


def test_unseen_classes_without_training_pixels_are_no_gap(tmp_path: Path) -> None:
    every = [list(range(1, 16))]
    cfg = write(tmp_path, {"train": {"a": every}, "val": {"b": [list(range(1, 21))]}})
    assert all("pixel" not in note for note in check(cfg).notes)


def test_masks_that_a_run_does_not_read_are_no_problem(tmp_path: Path) -> None:
    cfg = write(tmp_path, {"train": {"a": [[1]], "b": [[2]], "c": [[1]]}, "val": {"d": [[1]]}})
    (tmp_path / "ImageSets/Segmentation/mine.txt").write_text("a\n")
    (tmp_path / "SegmentationClass/b.png").unlink()
    Image.new("L", (9, 9), 77).save(tmp_path / "SegmentationClass/c.png")
    assert len(check(cfg).problems) == 2
    cfg = cfg.model_copy(update={"labelled": "mine"})
    few = check(cfg)
    assert few.problems == () and few.train.unread == 2
    assert few.train.classes.pixels[:2].tolist() == [1, 0]
    assert "list train: 3 ids of 1464 official, 2 whose masks are not read, 0 files missing, 0 bad" in few.text()
    (tmp_path / "JPEGImages/b.jpg").write_bytes(b"")
    assert [line.rpartition("/")[2][:5] for line in check(cfg).problems] == ["b.jpg"]


def test_a_data_set_without_any_mask_is_sound_and_its_notes_say_so(tmp_path: Path) -> None:
    cfg = write(tmp_path, {"train": {"a": [[1]]}, "val": {"b": [[1]]}}).model_copy(update={"label_share": 0.0})
    with_val = "\n".join(check(cfg).notes)
    assert "no mask of a training photo is read" in with_val and "can't be learnt" not in with_val
    assert "classes without an evaluation pixel: bicycle" in with_val
    for mask in (tmp_path / "SegmentationClass").iterdir():
        mask.unlink()
    report = check(cfg)
    assert report.problems == () and report.text().endswith("no problem found")
    assert "no evaluation photo has a mask: there is no score" in report.notes


def test_all_that_is_wrong_is_reported_at_once(tmp_path: Path) -> None:
    good = [[1, 1]]
    names = ("good", "empty", "value", "size", "nomask", "shared")
    cfg = write(tmp_path, {"train": dict.fromkeys(names, good), "val": {"shared": good}})
    (tmp_path / "JPEGImages/empty.jpg").write_bytes(b"")
    Image.new("L", (2, 1), 77).save(tmp_path / "SegmentationClass/value.png")
    Image.new("L", (3, 1), 1).save(tmp_path / "SegmentationClass/size.png")
    (tmp_path / "SegmentationClass/nomask.png").unlink()
    report = check(cfg)
    assert len(report.train.missing) == 1
    assert len(report.train.bad) == 3
    assert report.train.classes.pixels[0] == 4  # good and shared: what is bad isn't counted
    problems = "\n".join(report.problems)
    for says in ("empty.jpg: can't be decoded (empty file)", "mask value 77", "mask is 3 x 1", "nomask.png: no such"):
        assert says in problems
    assert "1 ids are on both lists, first 'shared'" in problems
    assert report.text().endswith("5 problems")


def test_without_a_list_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        check(DataConfig(layout="voc", root=str(tmp_path / "nowhere"), vocabulary="voc"))


def test_a_list_of_missing_files_alone_is_still_reported(tmp_path: Path) -> None:
    cfg = write(tmp_path, {"train": {"a": [[1]]}, "val": {"b": [[1]]}})
    (tmp_path / "SegmentationClass/a.png").unlink()
    report = check(cfg)
    assert report.train.sides == (0, 0)
    assert len(report.problems) == 1
