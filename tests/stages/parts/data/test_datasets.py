"""Claims about reading photos and labels of the official forms, and about what is set aside."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cache.errors import InputError
from stages.parts.data.datasets import (
    BadSample,
    DataConfig,
    Dataset,
    Quarantine,
    class_statistics,
    open_dataset,
)

PARTIAL = Path(__file__).resolve().parents[4] / "../shared/data/voc12_partial"


def photo(path: Path, height: int, width: int, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10, 20, 30)).save(path, **options)


def mask(path: Path, values: list[list[int]], dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        savemat(path, {"LabelMap": np.array(values, dtype)})
    else:
        Image.fromarray(np.array(values, dtype)).save(path)


def listed(path: Path, *ids: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{i}\n" for i in ids))


def voc(root: Path, masks: dict[str, list[list[int]]], **settings: object) -> DataConfig:
    """A VOC folder with these masks, all on both lists."""
    for name, values in masks.items():
        photo(root / f"JPEGImages/{name}.jpg", len(values), len(values[0]))
        mask(root / f"SegmentationClass/{name}.png", values)
    for name in ("train", "val"):
        listed(root / f"ImageSets/Segmentation/{name}.txt", *masks)
    return DataConfig.model_validate({"layout": "voc", "root": str(root), "vocabulary": "voc", **settings})


def test_voc_background_and_borders_are_ignored_and_unseen_pixels_look_the_same(tmp_path: Path) -> None:
    data = open_dataset(voc(tmp_path, {"a": [[0, 1, 15], [255, 16, 20]]}), "train")
    assert data.labels(0, "seen").tolist() == [[255, 0, 14], [255, 255, 255]]
    assert data.labels(0, "all").tolist() == [[255, 0, 14], [255, 15, 19]]
    assert data.labels(0).dtype == np.uint8
    assert data.image(0).shape == (2, 3, 3)
    assert (data.ids, len(data), data.subset) == (["a"], 1, "train")


def test_another_split_moves_the_same_pixels_to_other_indices(tmp_path: Path) -> None:
    data = open_dataset(voc(tmp_path, {"a": [[1, 8, 16, 20]]}, split="cat_sheep_sofa"), "train")
    assert data.labels(0, "seen").tolist() == [[0, 255, 14, 16]]
    assert [data.vocabulary.ordered[i] for i in data.labels(0, "all")[0]] == [
        "aeroplane",
        "cat",
        "pottedplant",
        "tvmonitor",
    ]


def test_coco_stuff_raw_maps_are_mapped_while_reading(tmp_path: Path) -> None:
    # Raw values of the official maps: 0 person, 12 stop sign, 20 cow (unseen), 181 wood, 255 unlabelled.
    photo(tmp_path / "images/train2017/000000000009.jpg", 1, 5)
    mask(tmp_path / "stuffthingmaps/train2017/000000000009.png", [[0, 12, 20, 181, 255]])
    cfg = DataConfig(layout="coco_stuff", root=str(tmp_path), vocabulary="coco_stuff", train="train2017", val="val2017")
    data = open_dataset(cfg, "train")
    names = data.vocabulary.ordered
    assert [names[i] for i in data.labels(0, "all")[0, :4]] == ["person", "stop sign", "cow", "wood"]
    assert data.labels(0, "all")[0, 4] == 255
    assert data.labels(0, "seen").tolist() == [[0, 11, 255, 155, 255]]


def test_coco_stuff_ids_without_a_class_are_refused(tmp_path: Path) -> None:
    # 11 (street sign) is in no official map, but in maps that were converted to train ids already.
    photo(tmp_path / "images/train2017/a.jpg", 1, 2)
    mask(tmp_path / "stuffthingmaps/train2017/a.png", [[0, 11]])
    cfg = DataConfig(layout="coco_stuff", root=str(tmp_path), vocabulary="coco_stuff", train="train2017")
    with pytest.raises(BadSample, match=r"a\.png: mask value 11 is outside the class list"):
        open_dataset(cfg, "train").labels(0)


@pytest.mark.parametrize("form", ["mat", "png"])
def test_context_is_read_from_label_maps_and_from_converted_masks(tmp_path: Path, form: str) -> None:
    photo(tmp_path / "JPEGImages/2008_000004.jpg", 1, 5)
    listed(tmp_path / "ImageSets/SegmentationContext/train.txt", "2008_000004")
    if form == "mat":  # 1 is one of the 400 labels that aren't classes
        mask(tmp_path / "trainval/2008_000004.mat", [[0, 2, 9, 458, 1]], np.uint16)
    else:
        mask(tmp_path / "SegmentationClassContext/2008_000004.png", [[0, 1, 2, 59, 255]])
    data = open_dataset(DataConfig(layout="context", root=str(tmp_path), vocabulary="context"), "train")
    names = data.vocabulary.ordered
    labels = data.labels(0, "all")[0]
    assert [names[i] for i in labels[1:4]] == ["aeroplane", "bag", "wood"]
    assert labels[[0, 4]].tolist() == [255, 255]
    assert data.labels(0, "seen").tolist() == [[255, 255, 0, 48, 255]]


def test_a_plain_folder_brings_its_own_classes(tmp_path: Path) -> None:
    for name in ("one photo", "zwei"):
        photo(tmp_path / f"images/{name}.png", 2, 2)
        mask(tmp_path / f"masks/{name}.png", [[7, 9], [0, 7]])
    (tmp_path / "classes.toml").write_text('names = ["moss", "rust"]\nvalues = [7, 9]\nignore = [0]\nunseen = ["moss"]')
    listed(tmp_path / "train.txt", "one photo")
    listed(tmp_path / "val.txt", "zwei")
    data = open_dataset(DataConfig(layout="folder", root=str(tmp_path), vocabulary="classes.toml"), "train")
    assert data.ids == ["one photo"]
    assert data.labels(0, "seen").tolist() == [[255, 0], [255, 255]]
    assert data.labels(0, "all").tolist() == [[1, 0], [255, 1]]


def test_sizes_are_compared_after_the_photo_is_turned(tmp_path: Path) -> None:
    cfg = voc(tmp_path, {"a": [[1, 1, 1], [2, 2, 2]]})
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "JPEGImages/a.jpg", 3, 2, exif=exif)
    data = open_dataset(cfg, "train")
    assert data.image(0).shape[:2] == data.labels(0).shape == (2, 3)
    photo(tmp_path / "JPEGImages/a.jpg", 2, 3, exif=exif)
    with pytest.raises(BadSample, match=r"a\.png: mask is 3 x 2 pixels, its image a\.jpg 2 x 3"):
        data.labels(0)


@pytest.mark.parametrize(("values", "says"), [([[0, 21, 22]], "21, 22"), ([[30] * 2, [31] * 2], "30, 31")])
def test_a_value_outside_the_class_list_is_refused(tmp_path: Path, values: list[list[int]], says: str) -> None:
    data = open_dataset(voc(tmp_path, {"a": values}), "train")
    with pytest.raises(BadSample, match=rf"a\.png: mask value {says} is outside the class list of vocabulary 'voc'"):
        data.labels(0)


def test_too_large_values_of_a_wide_mask_are_refused(tmp_path: Path) -> None:
    cfg = voc(tmp_path, {"a": [[0, 1]]})
    mask(tmp_path / "SegmentationClass/a.png", [[1, 65535]], np.uint16)
    with pytest.raises(BadSample, match="mask value 65535"):
        open_dataset(cfg, "train").labels(0)


def test_no_unseen_label_reaches_the_digest_or_the_seen_labels(tmp_path: Path) -> None:
    """Unseen pixels are poisoned with other unseen classes and background: nothing training reads may change."""
    cfg = voc(tmp_path, {"a": [[1, 16, 17], [2, 18, 0]]})
    before = open_dataset(cfg, "train")
    digest, labels = before.digest, before.labels(0)
    mask(tmp_path / "SegmentationClass/a.png", [[1, 20, 0], [2, 255, 19]])
    after = open_dataset(cfg, "train")
    assert after.digest == digest
    assert (after.labels(0) == labels).all()


def test_the_digest_follows_ids_order_and_photos(tmp_path: Path) -> None:
    cfg = voc(tmp_path, {"a": [[1]], "b": [[2]]})
    digest = open_dataset(cfg, "train").digest
    assert open_dataset(cfg, "val").digest == digest
    listed(tmp_path / "ImageSets/Segmentation/train.txt", "b", "a")
    assert open_dataset(cfg, "train").digest != digest
    listed(tmp_path / "ImageSets/Segmentation/train.txt", "a", "b")
    photo(tmp_path / "JPEGImages/b.jpg", 1, 1, comment=b"another file")
    assert open_dataset(cfg, "train").digest != digest


def test_a_data_set_survives_the_way_to_a_worker(tmp_path: Path) -> None:
    data = open_dataset(voc(tmp_path, {"a": [[1, 2]]}), "train")
    data.labels(0)
    copy: Dataset = pickle.loads(pickle.dumps(data))  # noqa: S301 - our own bytes
    assert (copy.labels(0) == data.labels(0)).all()
    error = pickle.loads(pickle.dumps(BadSample("a.jpg: broken")))  # noqa: S301
    assert (type(error), str(error)) == (BadSample, "a.jpg: broken")


def test_a_missing_file_is_named_with_the_number_of_them(tmp_path: Path) -> None:
    cfg = voc(tmp_path, {"a": [[1]], "b": [[1]], "c": [[1]]})
    (tmp_path / "JPEGImages/b.jpg").unlink()
    (tmp_path / "SegmentationClass/c.png").unlink()
    with pytest.raises(InputError, match=r"b\.jpg: no such image; .*2 files missing for the 3 ids of .*train\.txt"):
        open_dataset(cfg, "train")


def test_an_unknown_unseen_class_or_split_stops_before_any_reading(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'mine'"):
        open_dataset(voc(tmp_path, {"a": [[1]]}, split="mine"), "train")


def test_the_quarantine_stops_beyond_its_limit_and_names_every_sample() -> None:
    strict = Quarantine(0)
    with pytest.raises(InputError, match=r"a\.jpg: empty.*data\.max_bad allows 0"):
        strict.add(BadSample("a.jpg: empty"))
    lenient = Quarantine(2)
    for name in ("a", "b"):
        lenient.add(BadSample(f"{name}.jpg: empty"))
    assert lenient.bad == ["a.jpg: empty", "b.jpg: empty"]
    with pytest.raises(InputError, match=r"c\.jpg.*bad sample 3.*allows 2") as caught:
        lenient.add(BadSample("c.jpg: empty"))
    assert not isinstance(caught.value, BadSample)  # else a reading loop would set the stop itself aside


def test_class_statistics_count_pixels_and_images(tmp_path: Path) -> None:
    data = open_dataset(voc(tmp_path, {"a": [[1, 1, 16]], "b": [[1, 2, 0]]}), "train")
    seen = class_statistics(data)
    assert seen.names == data.vocabulary.seen
    assert seen.pixels[:3].tolist() == [3, 1, 0]
    assert seen.images[:3].tolist() == [2, 1, 0]
    assert seen.unlabelled == 2
    assert seen.absent == data.vocabulary.seen[2:]
    every = class_statistics(data, "all")
    assert every.pixels.sum() + every.unlabelled == 6
    assert every.pixels[15] == 1
    both = seen.plus(seen)
    assert (both.pixels[0], both.unlabelled) == (6, 4)


def test_class_statistics_set_bad_masks_aside_up_to_the_limit(tmp_path: Path) -> None:
    masks = {"a": [[1]], "b": [[99]], "c": [[2]]}
    quarantine = Quarantine(1)
    counted = class_statistics(open_dataset(voc(tmp_path, masks), "train"), "seen", quarantine)
    assert counted.pixels.sum() == 2
    assert len(quarantine.bad) == 1
    with pytest.raises(InputError, match=r"b\.png"):
        class_statistics(open_dataset(voc(tmp_path, masks), "train"))


@pytest.mark.skipif(not PARTIAL.is_dir(), reason="../shared/data/voc12_partial is not on this machine")
def test_the_partial_voc_opens_with_its_published_counts() -> None:
    cfg = DataConfig(layout="voc", root=str(PARTIAL), vocabulary="voc", train="train_aug")
    train, val = open_dataset(cfg, "train"), open_dataset(cfg, "val")
    assert (len(train), len(val)) == (2694, 445)
    assert not set(train.ids) & set(val.ids)
    for i in (0, 100, 2693):
        assert train.image(i).shape[:2] == train.labels(i).shape
        assert max(train.image(i).shape) == 384
    assert train.digest == open_dataset(cfg, "train").digest != val.digest


def test_settings_refuse_what_cannot_be() -> None:
    good = {"layout": "voc", "root": ".", "vocabulary": "voc"}
    assert DataConfig.model_validate(good).max_bad == 0
    assert "root" not in DataConfig.model_validate(good).fingerprint_fields()
    wrongs = ({"layout": "coco"}, {"max_bad": -1}, {"max_pixels": 10**9}, {"vocabulary": ""}, {"extra": 1})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DataConfig.model_validate(good | wrong)
    assert json.dumps(DataConfig.model_validate(good).fingerprint_fields())
