"""Claims about where a data set's files are looked for, and which names are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache.errors import InputError
from stages.parts.data.id_lists import read_ids, shipped_list
from stages.parts.data.layouts import LAYOUTS, Located, locate

LISTS = {"train": "train", "val": "val"}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path, name: str, *ids: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(ids))


def voc(root: Path, subset: str = "train") -> Located:
    return locate(LAYOUTS["voc"], root, LISTS, subset)


def test_official_lists_are_shipped_whole() -> None:
    sizes = {name: len(shipped_list(name)) for name in ("voc_train", "voc_train_aug", "voc_val", "context_val")}
    assert sizes == {"voc_train": 1464, "voc_train_aug": 10582, "voc_val": 1449, "context_val": 5104}
    assert not set(shipped_list("voc_train_aug")) & set(shipped_list("voc_val"))


def test_records_follow_the_list(tmp_path: Path) -> None:
    touch(tmp_path, *(f"JPEGImages/{i}.jpg" for i in "abc"), *(f"SegmentationClass/{i}.png" for i in "abc"))
    listed(tmp_path, "ImageSets/Segmentation/train.txt", "c", "", " a ")
    assert [record.id for record in voc(tmp_path).records] == ["c", "a"]
    assert voc(tmp_path).records[0].mask == tmp_path / "SegmentationClass/c.png"


def test_augmented_masks_are_preferred_where_all_listed_ids_have_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"JPEGImages/{i}.jpg" for i in "ab"), *(f"SegmentationClass/{i}.png" for i in "ab"))
    touch(tmp_path, "SegmentationClassAug/a.png")
    listed(tmp_path, "ImageSets/train.txt", "a")
    listed(tmp_path, "ImageSets/val.txt", "a", "b")
    assert voc(tmp_path).records[0].mask.parent.name == "SegmentationClassAug"
    assert {r.mask.parent.name for r in voc(tmp_path, "val").records} == {"SegmentationClass"}


def test_missing_files_are_reported_each(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/a.jpg", "SegmentationClass/b.png")
    listed(tmp_path, "ImageSets/train.txt", "a", "b")
    found = voc(tmp_path)
    assert found.records == []
    assert found.missing == [
        f"{tmp_path}/JPEGImages/b.jpg: no such image",
        f"{tmp_path}/SegmentationClass/a.png: no such mask",
    ]


@pytest.mark.parametrize("bad", ["../a", "/etc/passwd", "a/b", "a\\b", ".hidden", "..", "a\x00b", "x" * 201])
def test_an_id_that_could_leave_the_folder_is_refused(tmp_path: Path, bad: str) -> None:
    touch(tmp_path, "JPEGImages/a.jpg", "SegmentationClass/a.png")
    listed(tmp_path, "ImageSets/train.txt", "a", bad)
    with pytest.raises(InputError, match=r"train\.txt.*isn't a plain name") as caught:
        voc(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ["../train", "/train", "", "."])
def test_a_list_name_that_could_leave_the_folder_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InputError, match=r"data\.train.*isn't a plain name"):
        locate(LAYOUTS["voc"], tmp_path, {"train": bad, "val": "val"}, "train")


def test_a_link_out_of_the_data_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(root, "JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationClass/b.png")
    touch(tmp_path, "secret.jpg")
    listed(root, "ImageSets/train.txt", "a", "b")
    (root / "JPEGImages/b.jpg").symlink_to("a.jpg")
    assert len(voc(root).records) == 2
    (root / "JPEGImages/b.jpg").unlink()
    (root / "JPEGImages/b.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(InputError, match=r"b\.jpg: a link out of"):
        voc(root)


def test_broken_lists_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for content, says in ((b"\n \n", "empty"), (b"a\nb\na\n", "'a' is listed twice"), (b"\xff\xfe\x00", "as text")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"list\.txt.*{says}"):
            read_ids(path)
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert read_ids(path) == ["a", "b"]


def test_missing_folders_and_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; set data\.root"):
        voc(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"set data\.root"):
        voc(Path())
    with pytest.raises(InputError, match="JPEGImages: no such folder"):
        voc(tmp_path)
    touch(tmp_path, "JPEGImages/a.jpg")
    with pytest.raises(InputError, match=r"'train': no such list; expected .*ImageSets/Segmentation/train\.txt or "):
        voc(tmp_path)


def test_a_folder_without_lists_is_dealt_out_the_same_way_every_time(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(23)]
    touch(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"masks/{n}.png" for n in names))
    parts = {s: [r.id for r in locate(LAYOUTS["folder"], tmp_path, LISTS, s).records] for s in ("train", "val")}
    assert len(parts["val"]) == 4
    assert sorted(parts["train"] + parts["val"]) == sorted(names)
    # The four lowest of `printf p0 | sha256sum` and so on: the same wherever and whenever it runs.
    assert parts["val"] == ["p0", "p17", "p7", "p9"]


def test_one_list_of_two_is_not_completed_by_dealing(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png")
    listed(tmp_path, "train.txt", "a")
    with pytest.raises(InputError, match=r"'val': no such list; expected .*val\.txt"):
        locate(LAYOUTS["folder"], tmp_path, LISTS, "val")


def test_two_photos_of_one_id_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png")
    with pytest.raises(InputError, match="has the same id"):
        locate(LAYOUTS["folder"], tmp_path, LISTS, "train")


def test_coco_stuff_takes_every_photo_of_the_folder_that_its_list_names(tmp_path: Path) -> None:
    touch(tmp_path, "images/train2017/2.jpg", "images/train2017/1.jpg", "images/val2017/9.jpg")
    touch(tmp_path, "stuffthingmaps/train2017/1.png", "stuffthingmaps/train2017/2.png")
    touch(tmp_path, "annotations/val2017/9.png", "annotations/val2017/9_labelTrainIds.png")
    lists = {"train": "train2017", "val": "val2017"}
    assert [r.id for r in locate(LAYOUTS["coco_stuff"], tmp_path, lists, "train").records] == ["1", "2"]
    assert [r.mask.name for r in locate(LAYOUTS["coco_stuff"], tmp_path, lists, "val").records] == ["9.png"]
    (tmp_path / "images/empty").mkdir()
    with pytest.raises(InputError, match=r"no \.jpg file for train"):
        locate(LAYOUTS["coco_stuff"], tmp_path, {"train": "empty", "val": "val2017"}, "train")


def test_context_reads_the_phases_of_its_official_file_and_ships_the_val_list(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/2008_000002.jpg", "JPEGImages/2008_000004.jpg", "trainval/2008_000004.mat")
    images = [{"file_name": "2008_000004.jpg", "phase": "train"}, {"file_name": "2008_000002.jpg", "phase": "val"}]
    (tmp_path / "trainval_merged.json").write_text(json.dumps({"images": images}))
    train = locate(LAYOUTS["context"], tmp_path, LISTS, "train")
    assert [(r.id, r.mask.suffix, train.renumbered) for r in train.records] == [("2008_000004", ".mat", False)]
    assert len(locate(LAYOUTS["context"], tmp_path, LISTS, "val").missing) > 0
    (tmp_path / "trainval_merged.json").unlink()
    val = locate(LAYOUTS["context"], tmp_path, LISTS, "val")
    assert (val.listed, val.source) == (5104, "the official list context_val")
    with pytest.raises(InputError, match=r"expected .*train\.txt or .*trainval_merged\.json"):
        locate(LAYOUTS["context"], tmp_path, LISTS, "train")
    for broken in ("[]", "{", '{"images": [{}]}', '{"images": [1]}'):
        (tmp_path / "trainval_merged.json").write_text(broken)
        with pytest.raises(InputError, match=r"trainval_merged\.json: isn't"):
            locate(LAYOUTS["context"], tmp_path, LISTS, "train")


def folder(root: Path, subset: str = "train") -> Located:
    return locate(LAYOUTS["folder"], root, LISTS, subset)


def test_endings_in_any_case_and_masks_of_other_formats_are_found(tmp_path: Path) -> None:
    photos, masks = ("a.Jpg", "b.TIF", "c.jfif", "d.webp"), ("a.png", "b.tif", "c.PNG", "d.bmp")
    touch(tmp_path, *(f"images/{n}" for n in photos), *(f"masks/{n}" for n in masks))
    found = [folder(tmp_path, subset) for subset in LISTS]
    assert sorted(r.image.name for part in found for r in part.records) == sorted(photos)
    assert not any(part.missing for part in found)


def test_hidden_files_are_no_photos(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/._a.jpg", "images/b.jpg", "masks/a.png", "masks/._a.png", "masks/b.png")
    assert {r.id for s in LISTS for r in folder(tmp_path, s).records} == {"a", "b"}


def test_photos_in_sub_folders_are_found_and_those_named_as_lists_are_the_lists(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"{kind}/{n}" for kind, e in (("images", "jpg"), ("masks", "png")) for n in (f"day/1.{e}", f"n/1.{e}")),
    )
    assert {r.id for s in LISTS for r in folder(tmp_path, s).records} == {"day__1", "n__1"}
    listed(tmp_path, "train.txt", "images/day/1.jpg masks/day/1.png")
    listed(tmp_path, "val.txt", "n/1.jpg")
    assert [r.mask for r in folder(tmp_path).records] == [tmp_path / "masks/day/1.png"]
    assert [r.id for r in folder(tmp_path, "val").records] == ["n__1"]
    other = tmp_path / "other"
    touch(other, "images/train/a.jpg", "images/train/b.jpg", "images/val/a.jpg")
    touch(other, "masks/train/a.png", "masks/train/b.png", "masks/val/a.png")
    assert [r.id for r in folder(other).records] == ["train__a", "train__b"]
    assert [r.image for r in folder(other, "val").records] == [other / "images/val/a.jpg"]


def test_lists_may_hold_endings_and_paths(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/a b.jpg", "SegmentationClass/a b.png", "JPEGImages/c.jpg", "SegmentationClass/c.png")
    listed(tmp_path, "ImageSets/train.txt", "/JPEGImages/a b.jpg /SegmentationClass/a b.png", "c.JPG")
    assert [r.id for r in voc(tmp_path).records] == ["a b", "c"]


@pytest.mark.parametrize("bad", ["../a.jpg", "/etc/a.jpg", "images/../../a.jpg", "x/../a.jpg", "a/.jpg"])
def test_a_path_that_could_leave_the_folder_is_refused(tmp_path: Path, bad: str) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png")
    listed(tmp_path, "train.txt", bad)
    with pytest.raises(InputError, match="isn't a plain name"):
        folder(tmp_path)


def test_a_missing_mask_or_list_tells_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.jpg", "masks/b.jpg")
    assert "masks holds a.jpg, b.jpg ... (JPEG blurs" in folder(tmp_path).missing[0]
    listed(tmp_path, "train.txt", "a")
    listed(tmp_path, "test.txt", "b")
    with pytest.raises(InputError, match=r"expected .*val\.txt; there is test, train"):
        folder(tmp_path, "val")


def test_photos_on_no_list_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{i}.jpg" for i in "abcde"), *(f"masks/{i}.png" for i in "abcde"))
    listed(tmp_path, "train.txt", "a")
    listed(tmp_path, "val.txt", "b")
    assert folder(tmp_path).unlisted == 3
