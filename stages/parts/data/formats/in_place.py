"""Which data sets are read where they lie, because their masks hold class numbers already, and how to tell them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import InputError
from stages.parts.data.layouts import LayoutName
from stages.parts.data.vocabulary import load_vocabulary

_VAL_LISTS = ("val", "valid", "validation", "test")
_CAMVID_PHOTO = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")
"""The beginnings of CamVid's file names: other data sets bear its folders, with other classes."""


@dataclass(frozen=True)
class InPlace:
    """A data set that needs no conversion."""

    title: str
    layout: LayoutName
    lists: tuple[str, str]
    """Names of the training and the evaluation list."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Its official class names by mask value, where it has such ones."""
    ignored: frozenset[int] = frozenset()
    """Mask values that its authors ignore."""


def find_in_place(root: Path) -> InPlace | None:
    """What the folder is, where it can be read as it lies. Raises InputError for no folder."""
    if not root.is_dir():
        near = difflib.get_close_matches(root.name, [p.name for p in root.parent.glob("*") if p.is_dir()], 1)
        hint = f"; is it {root.parent / near[0]}?" if near else "; give the folder that holds images/ and masks/"
        raise InputError(f"{root}: no such folder{hint}")

    def there(*folders: str) -> bool:
        return all((root / folder).is_dir() for folder in folders)

    if there("images", "masks"):
        return InPlace("images/ and masks/", "folder", ("train", _val_list(root)))
    if there("leftImg8bit/train", "gtFine/train"):
        return _published("Cityscapes, fine annotations (labelIds)", "cityscapes", ("train", "val"))
    if there("images/training", "annotations/training"):
        return _published("ADE20K", "ade20k", ("training", "validation"))
    if there("train", "trainannot", "val", "valannot"):
        if any(_CAMVID_PHOTO.match(path.name) for path in (root / "train").iterdir()):
            return _published("CamVid", "camvid", ("train", "val"))
        return InPlace("CamVid's folders", "camvid", ("train", "val"))
    return _voc(root) if there("JPEGImages") else None


def _published(title: str, name: LayoutName, lists: tuple[str, str]) -> InPlace:
    words = load_vocabulary(name, "official")
    return InPlace(title, name, lists, dict(zip(words.raw_values, words.classes, strict=True)), words.ignore)


def _voc(root: Path) -> InPlace | None:
    """The VOC layout, with its lists or without any; None where its masks lie elsewhere (CVAT, PASCAL Context)."""
    if not (root / "SegmentationClass").is_dir() and not (root / "SegmentationClassAug").is_dir():
        return None
    if (root / "labelmap.txt").is_file():  # CVAT's export: its masks hold colours
        return None
    lists = {p.stem for p in (*root.glob("ImageSets/*.txt"), *root.glob("ImageSets/Segmentation/*.txt"))}
    if not lists:
        return InPlace("the VOC layout without lists", "voc", ("train", "val"))
    if "val" in lists and lists & {"train", "train_aug"}:
        return InPlace("the VOC layout", "voc", ("train_aug" if "train_aug" in lists else "train", "val"))
    raise InputError(
        f"{root}: the VOC layout needs ImageSets/Segmentation/train.txt and val.txt, one id a line; there is "
        f"{', '.join(f'{name}.txt' for name in sorted(lists))}. Without any list, photos are dealt out"
    )


def _val_list(root: Path) -> str:
    """What the evaluation list of a folder is called: val, or else what stands beside a training list."""
    train = (root / "train.txt").is_file() or (root / "images/train").is_dir()
    there = (name for name in _VAL_LISTS if (root / f"{name}.txt").is_file() or (root / "images" / name).is_dir())
    return next(there, _VAL_LISTS[0]) if train else _VAL_LISTS[0]
