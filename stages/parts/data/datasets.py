"""Data sets: an id list, its photos and masks, read one at a time as RGB and class indices.

A `Dataset` holds paths only, so it can be sent to worker processes. Where the files lie is `layouts`' matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache.errors import InputError, nearest
from cache.settings import IGNORE, MOST_IN_A_BYTE, PathSetting, Settings
from stages.parts.data.images import (
    MAX_PIXELS,
    BadSample,
    file_crc,
    image_size,
    mask_size_problem,
    read_image,
    read_mask,
)
from stages.parts.data.layouts import LAYOUTS, Labels, LayoutName, Located, Record, Subset, locate, unlabelled_ids
from stages.parts.data.views import byte_counts
from stages.parts.data.vocabulary import Vocabulary, Which, load_vocabulary

__all__ = [
    "BadSample",
    "DataConfig",
    "Dataset",
    "Quarantine",
    "Record",
    "Subset",
    "Which",
    "class_statistics",
    "open_dataset",
]

_STRANGE = MOST_IN_A_BYTE
"""Of the bytes one that is neither a class index nor the ignore index."""


class DataConfig(Settings):
    """Table [data]: which photos, which classes, which of them unseen."""

    layout: LayoutName
    """How the folder is laid out: "folder" (images + masks), or as a published data set is (`layouts.LAYOUTS`)."""
    root: PathSetting = ""
    """The data set's folder; empty in a preset that leaves it to the command line."""
    vocabulary: str = Field(min_length=1)
    """A shipped vocabulary (voc, coco_stuff, context, demo) or the path of a TOML file; a relative path is
    looked for in `root` first. P"""
    split: str = "official"
    """Name of the vocabulary's zero-shot split. P"""
    train: str = "train"
    """Name of the training list: train_aug for VOC, train2017 for COCO-Stuff. P"""
    val: str = "val"
    """Name of the evaluation list. P"""
    label_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the training photos whose masks are read, those whose ids' hash comes first; the others take part by
    distillation alone, and need no mask. D"""
    labelled: str = ""
    """Name of a list of training photos whose masks are read, in the place of `label_share`. D"""
    labelled_classes: dict[str, Annotated[float, Field(ge=0, le=1)] | str] = Field(default={})
    """Seen class -> the photos whose masks of it are read, a share as `label_share` or a list's name. In the others its
    pixels have no label, and the pixel loss says nothing of it but at pixels of another seen class. For a class that
    came later, with few masks. D"""
    max_bad: int = Field(default=0, ge=0)
    """How many unusable samples may be set aside before the run stops; 0 stops at the first. D"""
    max_pixels: int = Field(default=100_000_000, gt=0, le=MAX_PIXELS)
    """Images with more pixels are refused before they are decoded. D"""


@dataclass(frozen=True)
class Dataset:
    """One list of a data set. Indexing follows the list; nothing is kept open."""

    cfg: DataConfig
    vocabulary: Vocabulary
    subset: Subset
    records: list[Record]
    drawn_from: str = ""
    """What photos that a program draws are drawn from: with the ids it says what they are, before they are there."""
    unlisted: int = 0
    """Photos in the folder that are on neither list."""
    unlabelled: frozenset[str] = frozenset()
    """Ids of photos whose masks are not read: they have no seen label anywhere."""
    withheld: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Seen class -> ids of photos in which its pixels have no label."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> list[str]:
        """The ids in list order; a new list each time, so one image's is better asked of `records`."""
        return [record.id for record in self.records]

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over the ids in order and the sizes of the image files, in bytes.

        Mask files don't enter, so no unseen label can reach a fingerprint. Drawn photos enter by what they are drawn
        from.
        """
        digest = hashlib.sha256(self.drawn_from.encode())
        for record in self.records:
            if self.drawn_from:
                digest.update(f"{record.id}\n".encode())
                continue
            try:
                size = record.image.stat().st_size
            except OSError as error:
                raise BadSample(f"{record.image}: can't be read ({error.strerror}); restore it") from error
            digest.update(f"{record.id}\0{size}\n".encode())
        return digest.hexdigest()

    @cached_property
    def masks_digest(self) -> str:
        """sha256 (hex) over ids and the masks' bytes, so that scores know whether a mask was edited since.

        Enters no fingerprint. Masks that a program draws are what `digest` says they are.
        """
        if self.drawn_from:
            return self.digest
        digest = hashlib.sha256()
        for record in self.records:
            try:
                found = str(file_crc(record.mask))
            except BadSample:  # evaluation says so, or leaves it out
                found = "unreadable"
            digest.update(f"{record.id}\0{found}\n".encode())
        return digest.hexdigest()

    def image(self, i: int, least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Photo i, uint8 [H, W, 3] RGB, EXIF-rotated. Raises BadSample.

        With `least` (h, w) it may come at 1/2, 1/4 or 1/8 of its sides, no smaller than that (`read_image`).
        """
        return read_image(self.records[i].image, self.cfg.max_pixels, least)

    def labelled_ingredient(self) -> dict[str, Any]:
        """Which photos are labelled, as an ingredient of what is made of them; nothing where all are."""
        told: dict[str, Any] = {"labelled": self._others(self.unlabelled)} if self.unlabelled else {}
        if self.withheld:
            told["labelled_classes"] = {name: self._others(ids) for name, ids in sorted(self.withheld.items())}
        return told

    def _others(self, ids: frozenset[str]) -> str:
        """sha256 (hex) over the ids that are not these."""
        return hashlib.sha256("\n".join(r.id for r in self.records if r.id not in ids).encode()).hexdigest()

    def photo_crc(self, i: int) -> int:
        """crc32 of photo i's file as it lies there. Raises BadSample where it can't be read."""
        return file_crc(self.records[i].image)

    def check_photo(self, i: int, crc: int) -> None:
        """Raises InputError where photo i is not, byte for byte, the one of `crc` that was extracted."""
        if self.photo_crc(i) != crc:
            raise InputError(
                f"{self.records[i].image}: is not the photo that was extracted; put that one back, or run "
                "`clip2seg extract`, which says what to remove"
            )

    def labels(self, i: int, which: Which = "seen") -> NDArray[np.uint8]:
        """Class indices of photo i, uint8 [H, W]; 255 = no label; with "seen", unseen pixels are 255 too. "all" of more
        than 254 classes: uint16, and 65535 for 255. "background": as "all", and K where none of the K classes is.

        Raises BadSample for an unreadable mask, one of another size than its photo, or a value outside the
        class list.
        """
        record = self.records[i]
        if which == "seen" and record.id in self.unlabelled:
            return np.full(image_size(record.image, self.cfg.max_pixels), IGNORE, np.uint8)
        raw = read_mask(record.mask, self.cfg.max_pixels)
        if problem := mask_size_problem(record.mask, raw.shape, record.image, self.cfg.max_pixels):
            raise BadSample(problem)
        found = self._looked_up(raw, which, record.mask)
        if which == "seen" and (hidden := self.hidden(record.id)):
            found[np.isin(found, hidden)] = IGNORE
        return found

    def _looked_up(self, raw: NDArray[np.integer], which: Which, mask: Path) -> NDArray[Any]:
        """Class indices of raw values, both [H, W]. Raises BadSample for a value outside the class list."""
        table = self._tables[which]
        if raw.dtype == np.uint8 and table.dtype == np.uint8:
            # Python looks bytes up twice as fast as numpy, which makes 8 bytes of each first.
            found = np.frombuffer(bytearray(raw).translate(self._byte_tables[which]), np.uint8).reshape(raw.shape)
            if not (found == _STRANGE).any():
                return found
        self._audit(raw, mask)
        return table.take(raw)

    def hidden(self, image_id: str) -> tuple[int, ...]:
        """Indices of the seen classes whose pixels have no label in a photo whose mask is read."""
        if image_id in self.unlabelled:
            return ()
        return tuple(k for k, ids in self._withheld_indices if image_id in ids)

    @cached_property
    def _withheld_indices(self) -> list[tuple[int, frozenset[str]]]:
        """`withheld` by class index; a class that an inner split holds out has none."""
        seen = self.vocabulary.seen
        return [(seen.index(name), ids) for name, ids in self.withheld.items() if name in seen]

    @cached_property
    def _tables(self) -> dict[Which, NDArray[Any]]:
        kinds: tuple[Which, ...] = ("seen", "all", "background")
        return {which: self.vocabulary.lookup(which) for which in kinds}

    @cached_property
    def _byte_tables(self) -> dict[Which, bytes]:
        """`_tables` for raw values of one byte, with _STRANGE for those outside the class list."""
        return {which: self._byte_table(table) for which, table in self._tables.items()}

    def _byte_table(self, table: NDArray[Any]) -> bytes:
        found = np.full(256, _STRANGE, np.uint8)
        known = np.flatnonzero(self._known[:256])
        found[known] = table[known]
        return found.tobytes()

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        return self.vocabulary.known

    def _audit(self, raw: NDArray[np.integer], mask: Path) -> None:
        if raw.dtype == np.uint8:
            values = np.flatnonzero(byte_counts(raw.astype(np.uint8, copy=False)))
        elif raw.min() >= 0 and raw.max() < self._known.size and self._known[raw].all():
            return
        else:
            values = np.unique(raw)
        strange = [int(v) for v in values if not 0 <= v < self._known.size or not self._known[v]]
        if not strange:
            return
        more = ", ..." if len(strange) > 5 else ""
        raise BadSample(
            f"{mask}: mask value {', '.join(map(str, strange[:5]))}{more} is outside the class list of vocabulary "
            f"{self.vocabulary.name!r}; correct the mask or add the value to `values` or `ignore`"
        )


def open_dataset(cfg: DataConfig, subset: Subset) -> Dataset:
    """The train or val list of a data set. Looks at file names only: 118k ids open in about a second.

    Raises InputError for a missing folder or list, an empty list, an id that isn't a plain name or is listed
    twice, and for files that are missing (the first is named).
    """
    found = locate_subset(cfg, subset)
    if found.missing:
        raise InputError(
            f"{found.missing[0]}; restore it or list the images to use "
            f"({len(found.missing)} files missing for the {found.listed} ids of {found.source})"
        )
    words = dataset_vocabulary(cfg, found.renumbered)
    made = Dataset(cfg, words, subset, found.records, unlisted=found.unlisted, unlabelled=found.unlabelled)
    return replace(made, withheld=withheld_of(made))


def withheld_of(data: Dataset) -> dict[str, frozenset[str]]:
    """`Dataset.withheld` as `data.labelled_classes` says it; nothing for evaluation, which reads all masks.

    Raises InputError for what is no seen class, a list that is not there, and photos on it whose masks are not read at
    all.
    """
    if data.subset == "val":
        return {}
    found = {}
    for name, told in data.cfg.labelled_classes.items():
        if name not in data.vocabulary.seen:
            near = nearest(name, data.vocabulary.seen)
            raise InputError(
                f"data.labelled_classes: {name!r} is no seen class of split {data.vocabulary.split!r}{near}; it has "
                f"{', '.join(data.vocabulary.seen[:8])}"
            )
        key = f"data.labelled_classes.{name}"
        labels = Labels(listed=told) if isinstance(told, str) else Labels(told)
        found[name] = unlabelled_ids(LAYOUTS[data.cfg.layout], Path(data.cfg.root).expanduser(), data.ids, labels, key)
        lost = sorted(data.unlabelled - found[name]) if isinstance(told, str) else []
        if lost:
            raise InputError(
                f"{key} = {told!r}: lists {lost[0]!r}, whose mask data.labelled or data.label_share leaves unread; "
                "add it to the labelled photos"
            )
    return {name: ids for name, ids in found.items() if ids}


def locate_subset(cfg: DataConfig, subset: Subset) -> Located:
    """What `open_dataset` would read, and what is missing for it. Raises InputError as it does, but for files."""
    lists: dict[Subset, str] = {"train": cfg.train, "val": cfg.val}
    labels = label_choice(cfg) if subset == "train" else Labels()
    found = locate(LAYOUTS[cfg.layout], Path(cfg.root).expanduser(), lists, subset, labels)
    if subset == "val" and cfg.label_share == 0 and not found.records:
        # Nowhere a mask: there is no score, and all else goes on. One mask says that the others are missing.
        found = locate(LAYOUTS[cfg.layout], Path(cfg.root).expanduser(), lists, subset, Labels(0.0))
    return found


def label_choice(cfg: DataConfig) -> Labels:
    """Which training photos have their masks read."""
    return Labels(cfg.label_share, cfg.labelled)


def dataset_vocabulary(cfg: DataConfig, renumbered: bool = False) -> Vocabulary:
    """The vocabulary that `cfg` names, under its split. Raises InputError."""
    inside = Path(cfg.root).expanduser() / cfg.vocabulary
    name = str(inside) if cfg.vocabulary.endswith(".toml") and inside.is_file() else cfg.vocabulary
    vocabulary = load_vocabulary(name, cfg.split)
    return vocabulary.renumbered() if renumbered else vocabulary


class Quarantine:
    """Unusable samples, recorded by name up to a limit: never silently skipped."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bad: list[str] = []

    def add(self, error: BadSample) -> None:
        """Sets a sample aside. Raises InputError, naming it, when that makes more than `limit`."""
        self.bad.append(str(error))
        if len(self.bad) > self.limit:
            raise InputError(f"{error} [bad sample {len(self.bad)}; data.max_bad allows {self.limit}]") from error


@dataclass(frozen=True)
class ClassStatistics:
    """How often each class occurs; arrays in class index order."""

    names: tuple[str, ...]
    pixels: NDArray[np.int64]
    """[K] labelled pixels of each class."""
    images: NDArray[np.int64]
    """[K] images that show it."""
    unlabelled: int
    """Pixels that are 255."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Names without a single pixel."""
        return tuple(name for name, pixels in zip(self.names, self.pixels, strict=True) if pixels == 0)

    def plus(self, other: ClassStatistics) -> ClassStatistics:
        """The counts of both."""
        pixels, images = self.pixels + other.pixels, self.images + other.images
        return ClassStatistics(self.names, pixels, images, self.unlabelled + other.unlabelled)


def class_statistics(dataset: Dataset, which: Which = "seen", quarantine: Quarantine | None = None) -> ClassStatistics:
    """Reads every mask and counts. With "seen", K is K_s, and unseen pixels count as unlabelled.

    Bad samples go to `quarantine` (left out: one of `max_bad`), which raises InputError beyond its limit.
    """
    quarantine = quarantine or Quarantine(dataset.cfg.max_bad)
    names = dataset.vocabulary.seen if which == "seen" else dataset.vocabulary.ordered
    pixels = np.zeros(len(names), np.int64)
    images = np.zeros(len(names), np.int64)
    unlabelled = 0
    for i in range(len(dataset)):
        try:
            labels = dataset.labels(i, which)
        except BadSample as error:
            quarantine.add(error)
            continue
        counts = np.bincount(labels.ravel(), minlength=len(names))[: len(names)]
        pixels += counts
        images += counts > 0
        unlabelled += labels.size - int(counts.sum())
    return ClassStatistics(names, pixels, images, unlabelled)
