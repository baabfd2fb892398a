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


def write_folder(root: Path, masks: list[list[int]], dtype: type[np.unsignedinteger] = np.uint8) -> Path:
    """A photo of 8 x 8 px for each list of mask values, which share its columns."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i, values in enumerate(masks):
        mask = np.repeat(np.array(values, dtype), 8)[None].repeat(8, 0)
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
    assert found.vocabulary.unseen == report.unseen == ()
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
    assert len(propose_unseen([count(f"c{k}", 5, 5) for k in range(300)])) == 144  # 156 and the latent ones fit a byte
    assert propose_unseen((count("a", 9, 2), count("b", 8, 1), count("c", 4, 1))) == ()  # each is needed
    assert propose_unseen((count("a", 9, 2), count("b", 8, 1), count("c", 0, 1))) == ("c",)  # no photo teaches it


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


def classes_toml(root: Path) -> dict[str, list]:
    return tomllib.loads((root / "classes.toml").read_text())


def test_binary_masks_are_refused_until_255_has_a_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[0, 255]] * 6)
    with pytest.raises(InputError, match=r"0 and 255 alone.*look binary: write `255 THE OBJECT'S NAME`"):
        init(str(root))
    assert not (root / "classes.toml").exists() and not (root / "train.txt").exists()
    (root / "names.txt").write_text("0 background\n255 tumour\n")
    report = init(str(root))
    written = classes_toml(root)
    assert (written["names"], written["values"], written["ignore"]) == (["background", "tumour"], [0, 255], [])
    assert report.unseen == () and not report.warnings  # background is no thing to find, tumour the only one
    found = check(load_config(str(report.preset)).data)
    assert not found.problems and (found.train.classes.pixels > 0).all() and found.train.classes.unlabelled == 0


def test_one_class_alone_is_said_to_score_100(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[0, 1]] * 6)
    (root / "names.txt").write_text("1 tumour\n")
    report = init(str(root))
    assert "one class alone, 'tumour'" in report.text() and "IoU is 100" in report.text()
    assert any("IoU is 100" in note for note in check(load_config(str(report.preset)).data).notes)


def test_names_that_no_mask_holds_become_unseen_classes_and_are_told(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 6)
    (root / "names.txt").write_text("".join(f"{v} thing {v}\n" for v in range(1, 9)))
    report = init(str(root))
    assert "6 names stand for values that no mask holds (thing 3, " in report.text()
    # More names than labelled classes: none of the two is hidden.
    assert classes_toml(root)["unseen"] == [f"thing {v}" for v in range(3, 9)]
    assert check(load_config(str(report.preset)).data).vocabulary.seen == ("thing 1", "thing 2")


def test_65535_is_no_label(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[300, 65535], [2, 300]] * 4, np.uint16)
    report = init(str(root))
    assert [c.value for c in report.classes] == [2, 300] and classes_toml(root)["ignore"] == [255, 65535]
    assert not check(load_config(str(report.preset)).data).problems


def test_void_is_no_class_and_what_is_ignored_is_shown(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[0, 1, 2, 11]] * 6)
    (root / "names.txt").write_text("1 cat\n2 dog\n11 Void\n")
    report = init(str(root))
    assert classes_toml(root)["ignore"] == [0, 11, 255] and [c.name for c in report.classes] == ["cat", "dog"]
    shown = [line for line in report.text().splitlines() if line.endswith("  ignored")]
    assert len(shown) == 2 and "taken for background" in shown[0] and f"{report.train * 64:,}" in shown[0]


def test_smoothed_masks_are_warned_of(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2, 9, 40]] * 6)
    for path in (root / "masks").iterdir():
        Image.open(path).resize((64, 64), Image.Resampling.BICUBIC).save(path)
        Image.new("RGB", (64, 64)).save(root / "images" / f"{path.stem}.jpg")
    report = init(str(root))
    assert "warning: " in report.text() and "nearest-neighbour" in report.text()
    assert any("smoothed" in note for note in check(load_config(str(report.preset)).data).notes)


def test_masks_in_colour_are_sent_to_import(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 4)
    for path in (root / "masks").iterdir():
        colours = np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(colours).save(path)
    with pytest.raises(InputError, match=r"took it for colour codes.*clip2seg data import .*d --out"):
        init(str(root))


def test_a_photo_turned_by_exif_is_told(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(root / "images/p01.jpg", exif=exif)
    assert "rotated by EXIF" in init(str(root)).bad[0]


def test_a_second_run_keeps_edits_adds_what_is_new_and_leaves_a_copy(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2], [2, 3], [1, 3]] * 4)
    report = init(str(root))
    mine = (root / "classes.toml").read_text().replace('"class 1"', '"cow"').replace('"class 2"', '"sheep"')
    mine = mine.replace("ignore = [255]", "ignore = [5, 255]").replace("unseen = []", 'unseen = ["sheep"]')
    mine += '[splits]\nother = ["cow"]\n[say]\ncow = "cow | \\"moo\\" {}"\n'
    mine = mine.replace("unseen =", 'background = [5]\ntitle = "Farm"\nunseen =')
    (root / "classes.toml").write_text(mine)
    preset = report.preset.read_text() + "# mine\n"
    report.preset.write_text(preset)
    extra = write_folder(tmp_path / "more", [[7, 2, 5]] * 20)
    for folder in ("images", "masks"):
        for path in (extra / folder).iterdir():
            path.rename(root / folder / f"new_{path.name}")
    with (root / "train.txt").open("a") as file:
        file.writelines(f"new_p{i:02d}\n" for i in range(20))
    report = init(str(root))
    assert [c.name for c in report.classes] == ["cow", "sheep", "class 3", "class 7"] and report.unseen == ("sheep",)
    assert [c.value for c in report.ignored] == [5] and preset == report.preset.read_text()
    words = tomllib.loads(report.vocabulary.read_text())
    assert words["splits"] == {"other": ["cow"]} and words["ignore"] == [5, 255]
    assert words["say"] == {"cow": 'cow | "moo" {}'} and (words["background"], words["title"]) == ([5], "Farm")
    assert (root / "classes.toml.bak").read_text() == mine


def test_the_preset_may_go_to_another_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "my data", [[1, 2]] * 6)
    before = sorted(root.rglob("*"))
    report = init(str(root), out=str(tmp_path / "new/place"))
    assert sorted(root.rglob("*")) == before and report.preset == tmp_path / "new/place/my_data.toml"
    found = check(load_config(str(report.preset)).data)
    assert not found.problems and len(found.train.ids) == report.train


def test_paths_with_spaces_are_quoted_for_the_shell(tmp_path: Path) -> None:
    report = init(str(write_folder(tmp_path / "my data", [[1, 2]] * 6)))
    assert f"next: clip2seg data check '{report.preset}'" in report.text()


def test_masks_with_an_ending_and_a_test_list_are_taken(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", [[1, 2]] * 6)
    for path in list((root / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    (root / "train.txt").write_text("".join(f"p0{i}.jpg\n" for i in range(3)))
    (root / "test.txt").write_text("images/p04.jpg masks/p04_mask.png\n")
    report = init(str(root))
    assert (report.train, report.val) == (3, 1) and 'val = "test"' in report.preset.read_text()
    assert "2 photos are on neither train.txt nor test.txt" in report.text()


def test_a_mistyped_folder_gets_its_nearest_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "farm", [[1, 2]] * 4)
    with pytest.raises(InputError, match=r"no such folder; is it .*/farm\?"):
        init(str(tmp_path / "fram"))
