from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from pipeline.config import load_config
from stages.data.check import check
from stages.data.init import init
from stages.parts.data.proposals import ClassCount, propose_unseen, propose_val


def write_folder(root: Path, masks: list[list[int]]) -> Path:
    """A photo of 8 x 8 px for each list of mask values, which share its columns."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i, values in enumerate(masks):
        mask = np.repeat(np.array(values, np.uint8), 8)[None].repeat(8, 0)
        Image.fromarray(mask).save(root / "masks" / f"p{i:02d}.png")
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(root / "images" / f"p{i:02d}.jpg")
    return root


def count(name: str, train: int, val: int) -> ClassCount:
    return ClassCount(0, name, train, train, val, val, "x")


def test_a_folder_becomes_a_preset_that_passes_the_audit(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "My farm!", [[0, 10], [20, 10], [30, 255], [10, 30], [20, 30]] * 4)
    (root / "names.txt").write_text("10 cat\n20: potted plant\n# a comment\n30,cow\n")
    report = init(str(root))
    assert report.preset == root / "my_farm.toml" and report.unnamed == () and report.bad == ()
    assert [(c.value, c.name) for c in report.classes] == [(10, "cat"), (20, "potted plant"), (30, "cow")]
    assert sum(c.train_images + c.val_images for c in report.classes) == 12 + 8 + 12
    assert report.train + report.val == 20
    found = check(load_config(str(report.preset)).data)
    assert not found.problems
    assert found.vocabulary.unseen == report.unseen and len(report.unseen) == 1
    by_name = {c.name: c for c in report.classes}
    for i, name in enumerate(found.vocabulary.ordered):
        c = by_name[name]
        assert found.train.classes.pixels[i] == c.train_pixels and found.val.classes.images[i] == c.val_images


def test_values_without_a_name_are_pointed_out(tmp_path: Path) -> None:
    report = init(str(write_folder(tmp_path / "d", [[1, 2]] * 5)))
    assert report.unnamed == (1, 2) and "name the classes" in report.text()
    assert tomllib.loads(report.vocabulary.read_text())["names"] == ["class 1", "class 2"]


def test_zero_is_background_unless_it_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[0, 1]] * 5)
    init(str(root))
    assert tomllib.loads((root / "classes.toml").read_text())["ignore"] == [0, 255]
    (root / "names.txt").write_text("0 sky\n1 cat\n")
    init(str(root), force=True)
    assert tomllib.loads((root / "classes.toml").read_text())["names"] == ["sky", "cat"]


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 5)
    init(str(root))
    (root / "classes.toml").write_text("mine")
    with pytest.raises(InputError, match="give --force"):
        init(str(root))
    assert (root / "classes.toml").read_text() == "mine"


def test_own_lists_are_kept(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 5)
    (root / "train.txt").write_text("p00\np01\n")
    (root / "val.txt").write_text("p02\n")
    report = init(str(root))
    assert (report.train, report.val) == (2, 1) and (root / "val.txt").read_text() == "p02\n"


def test_every_class_of_two_photos_is_on_both_lists() -> None:
    masks = {f"p{i}": {1: 5, 2 + i % 7: 5, 255: 3} for i in range(35)} | {"only": {9: 1}}
    val = propose_val(masks)
    for value in range(1, 9):
        shown = {one for one, mask in masks.items() if value in mask}
        assert shown & val and shown - val
    assert "only" not in val  # its class would have nothing to learn from
    assert 5 <= len(val) <= 10
    assert propose_val(dict(reversed(masks.items()))) == val


def test_the_proposed_unseen_classes_can_be_scored_and_are_not_the_most_frequent() -> None:
    classes = (count("a", 90, 9), count("b", 50, 5), count("c", 40, 4), count("d", 30, 3), count("e", 2, 0))
    assert propose_unseen(classes) == ("c",)
    assert propose_unseen((count("a", 9, 2),)) == ()
    assert propose_unseen((count("a", 9, 2), count("b", 8, 1))) == ("b",)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("cat\n", "line 1 is 'cat'"),
        ("1 cat\n1 dog\n", "value 1 is named twice"),
        ("1 <b>cat</b>\n", "is no class name"),
        ("1 cat\n2 cat\n", "given to two mask values"),
    ],
)
def test_a_bad_list_of_names_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 5)
    (root / "names.txt").write_text(lines)
    with pytest.raises(InputError, match=words):
        init(str(root))
    assert not (root / "classes.toml").exists() and not (root / "train.txt").exists()


def test_a_mask_of_another_size_is_left_out_by_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 6)
    Image.fromarray(np.ones((3, 3), np.uint8)).save(root / "masks/p03.png")
    report = init(str(root))
    assert len(report.bad) == 1 and "p03.png" in report.bad[0] and report.train + report.val == 5
    listed = (root / "train.txt").read_text() + (root / "val.txt").read_text()
    assert "p03" not in listed
