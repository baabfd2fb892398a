"""Where a data set's files lie. A layout is a row of data; one function reads them all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from cache.errors import InputError
from stages.parts.data.id_lists import NESTED, PHOTOS, check_plain, detail_ids, read_ids, shipped_list
from stages.parts.data.pairing import paired

LayoutName = Literal["voc", "folder", "coco_stuff", "context", "cityscapes", "ade20k", "camvid"]
Subset = Literal["train", "val"]
Unlisted = Literal["refuse", "all", "hash", "hash_labelled"]


@dataclass(frozen=True)
class Record:
    """One sample: its id and where its two files lie."""

    id: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class MaskFolder:
    """One place where a layout's masks may lie; `{list}` stands for the list's name."""

    folder: str
    suffixes: tuple[str, ...] = (".png",)
    renumbered: bool = False
    """Masks hold 1..K in vocabulary order (0 = none) instead of the vocabulary's raw values."""


@dataclass(frozen=True)
class Layout:
    """The official on-disk form of a data set."""

    images: str
    """Folder of the photos."""
    suffixes: tuple[str, ...]
    """Endings of the photos, or what their names end in, in small letters; capitals are read too."""
    masks: tuple[MaskFolder, ...]
    """The first one that holds every listed id is read."""
    lists: tuple[str, ...] = ()
    """Files that may hold the ids, first found: one id a line, or PASCAL in Detail's .json."""
    shipped: tuple[tuple[str, str], ...] = ()
    """(list name, shipped official list) for lists the data set's own archive lacks."""
    unlisted: Unlisted = "refuse"
    """Without a list: refuse, take all photos, or deal out by the hash of their ids all or those with a mask."""
    nested: bool = False
    """Photos and masks may lie in sub-folders, alike in both; the id of `day/p0.jpg` is `day__p0`. Without lists,
    sub-folders that bear the lists' names are the lists."""


LAYOUTS: dict[LayoutName, Layout] = {
    "voc": Layout(
        images="JPEGImages",
        suffixes=(".jpg",),
        masks=(MaskFolder("SegmentationClassAug"), MaskFolder("SegmentationClass")),
        lists=("ImageSets/Segmentation/{list}.txt", "ImageSets/{list}.txt"),
        unlisted="hash_labelled",
    ),
    "folder": Layout(
        images="images",
        suffixes=PHOTOS,
        masks=(MaskFolder("masks", (".png", ".tif", ".tiff", ".bmp", ".gif")),),
        lists=("{list}.txt",),
        unlisted="hash",
        nested=True,
    ),
    "coco_stuff": Layout(
        images="images/{list}",
        suffixes=(".jpg",),
        masks=(MaskFolder("stuffthingmaps/{list}"), MaskFolder("annotations/{list}")),
        unlisted="all",
    ),
    "context": Layout(
        images="JPEGImages",
        suffixes=(".jpg",),
        masks=(MaskFolder("trainval", (".mat",)), MaskFolder("SegmentationClassContext", renumbered=True)),
        lists=("ImageSets/SegmentationContext/{list}.txt", "trainval_merged.json"),
        shipped=(("val", "context_val"),),
    ),
    "cityscapes": Layout(
        images="leftImg8bit/{list}",
        suffixes=("_leftimg8bit.png",),
        masks=(MaskFolder("gtFine/{list}", ("_gtfine_labelids.png",)),),
        unlisted="all",
        nested=True,
    ),
    "ade20k": Layout(
        images="images/{list}",
        suffixes=(".jpg",),
        masks=(MaskFolder("annotations/{list}"),),
        unlisted="all",
    ),
    "camvid": Layout(
        images="{list}",
        suffixes=PHOTOS,
        masks=(MaskFolder("{list}annot"),),
        lists=("{list}.txt",),
        unlisted="all",
    ),
}
"""The layouts that `data.layout` can name."""


@dataclass(frozen=True)
class Located:
    """What `locate` found of one list."""

    source: str
    """Where the ids came from."""
    listed: int
    """Number of ids."""
    records: list[Record] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """One line for each id that lacks a file."""
    renumbered: bool = False
    unlisted: int = 0
    """Photos in the folder that are on none of the lists."""
    dealt: bool = False
    """Whether there are no lists, so that the ids were dealt out by hash."""
    unlabelled: frozenset[str] = frozenset()
    """Ids whose masks are not read."""


class Labels(NamedTuple):
    """Which photos of a list have their masks read: a `share` of them by the hash of their ids, or those of a list."""

    share: float = 1.0
    listed: str = ""


def locate(
    layout: Layout, root: Path, lists: Mapping[Subset, str], subset: Subset, labels: Labels | None = None
) -> Located:
    """The files of the list `lists[subset]`, by folder listings alone: no file is opened, nothing is fetched.

    Photos that `labels` leaves out need no mask. Ids without a photo or mask are reported in `missing`. Raises
    InputError for a missing folder or list, an empty list, an id or list name that isn't a plain name, and a file that
    is a link out of `root`.
    """
    list_name = lists[subset]
    check_plain(list_name, f"data.{subset}")
    if root == Path() or not root.is_dir():
        raise InputError(f"{root}: no such folder; set data.root to the data set's folder")
    image_folder = root / layout.images.format(list=list_name)
    images = _files(image_folder, layout.suffixes, root, nested=layout.nested)
    drawn = [(place, root / place.folder.format(list=list_name)) for place in layout.masks]
    masks = [_files(folder, place.suffixes, root, optional=True, nested=layout.nested) for place, folder in drawn]
    named = _ids(layout, root, lists, subset, images, set().union(*masks))
    ids = named.ids
    wanted = [i for i in ids if i in images]
    found = [
        (place, folder, paired(wanted, names) if layout.nested else names)
        for (place, folder), names in zip(drawn, masks, strict=True)
    ]
    place, mask_folder, names = min(found, key=lambda candidate: sum(i not in candidate[2] for i in ids))
    missing = [f"{image_folder / i}{layout.suffixes[0]}: no such image" for i in ids if i not in images]
    unlabelled = unlabelled_ids(layout, root, ids, labels or Labels())
    lacking = [i for i in ids if i not in names and i not in unlabelled]
    seen = f"; {_what_is_there(mask_folder)}" if lacking and layout.nested else ""
    missing += [f"{mask_folder / i}{place.suffixes[0]}: no such mask{seen}" for i in lacking]
    records = [
        Record(i, image_folder / images[i], mask_folder / names.get(i, f"{i}{place.suffixes[0]}"))
        for i in ids
        if i in images and (i in names or i in unlabelled)
    ]
    return Located(named.source, len(ids), records, missing, place.renumbered, named.unlisted, named.dealt, unlabelled)


def unlabelled_ids(
    layout: Layout, root: Path, ids: Sequence[str], labels: Labels, key: str = "data.labelled"
) -> frozenset[str]:
    """The ids that `labels`, set by `key`, leaves out. Raises InputError where its list is not there or odd."""
    if labels.listed:
        check_plain(labels.listed, key)
        candidates = [root / template.format(list=labels.listed) for template in layout.lists]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            looked = " or ".join(map(str, candidates)) or "nothing: this layout has no lists"
            raise InputError(f"{key} = {labels.listed!r}: no such list; expected {looked}")
        labelled = set(read_ids(path, layout.images.format(list=path.stem), nested=layout.nested))
        if strange := sorted(labelled - set(ids)):
            raise InputError(f"{path}: {strange[0]!r} is not a training photo; take it out, or add it to that list")
        return frozenset(ids) - labelled
    if labels.share >= 1:
        return frozenset()
    count = max(1, round(labels.share * len(ids))) if labels.share else 0
    by_hash = sorted(ids, key=lambda one: hashlib.sha256(f"label\0{one}".encode()).hexdigest())
    return frozenset(by_hash[count:])


def _what_is_there(folder: Path) -> str:
    """The files of a mask folder in a few words."""
    if not folder.is_dir():
        return f"there is no folder {folder.name}"
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    shown = ", ".join(names[:3]) or "nothing"
    jpeg = any(name.lower().endswith((".jpg", ".jpeg")) for name in names)
    return f"{folder.name} holds {shown}" + (" ... (JPEG blurs class numbers: save masks as PNG)" if jpeg else "")


class _Ids(NamedTuple):
    """The ids of a list, where they came from, how many photos no list names, and whether they were dealt."""

    ids: list[str]
    source: str
    unlisted: int = 0
    dealt: bool = False


def _ids(
    layout: Layout,
    root: Path,
    lists: Mapping[Subset, str],
    subset: Subset,
    images: dict[str, str],
    labelled: set[str],
) -> _Ids:
    list_name = lists[subset]
    candidates = [root / template.format(list=list_name) for template in layout.lists]
    for path in candidates:
        if path.is_file():
            ids = detail_ids(path, list_name) if path.suffix == ".json" else _read(layout, path)
            return _Ids(ids, str(path), _unlisted(layout, root, lists, images) if layout.nested else 0)
    if shipped := dict(layout.shipped).get(list_name):
        return _Ids(shipped_list(shipped), f"the official list {shipped}")
    ids, dealt = sorted(images), False
    if layout.unlisted == "hash_labelled":
        ids = [i for i in ids if i in labelled]
        deal = bool(ids) and not any(any(root.glob(t.format(list="*"))) for t in layout.lists)
    else:  # one list of two is a mistake: the other would overlap it
        listed = any((root / t.format(list=name)).exists() for t in layout.lists for name in lists.values())
        deal = layout.unlisted == "hash" and not listed
    if deal:
        by_folder = {name: [i for i in ids if i.startswith(name + NESTED)] for name in lists.values()}
        if all(by_folder.values()):
            ids, source = by_folder[list_name], str(root / layout.images / list_name)
        else:
            ids, source = _dealt(ids, subset), f"{root} (no lists: every fifth photo by hash is val)"
            dealt = True
    elif layout.unlisted == "all":
        source = str(root / layout.images.format(list=list_name))
    else:
        looked = " or ".join(str(path) for path in candidates)
        raise InputError(f"data.{subset} = {list_name!r}: no such list; expected {looked}{_other_lists(layout, root)}")
    if not ids:
        raise InputError(f"{source}: no {' '.join(layout.suffixes)} file for {subset}; put the photos there")
    for one in ids:
        check_plain(one, source)
    return _Ids(ids, source, dealt=dealt)


def _read(layout: Layout, path: Path) -> list[str]:
    return read_ids(path, layout.images.format(list=path.stem), nested=layout.nested)


def _unlisted(layout: Layout, root: Path, lists: Mapping[Subset, str], images: dict[str, str]) -> int:
    named: set[str] = set()
    for path in (root / t.format(list=name) for t in layout.lists for name in lists.values()):
        named.update(_read(layout, path) if path.is_file() else ())
    return len(images.keys() - named)


def _other_lists(layout: Layout, root: Path) -> str:
    """The lists that are there, for one that isn't."""
    there = sorted({p.stem for t in layout.lists for p in root.glob(t.format(list="*"))} - {"names"})
    return f"; there is {', '.join(there[:6])}" if there else ""


def _dealt(ids: list[str], subset: Subset) -> list[str]:
    """A fifth of the ids, at least one of two, for val: those whose sha256 comes first. The rest is for train."""
    by_hash = sorted(ids, key=lambda one: hashlib.sha256(one.encode()).hexdigest())
    val = set(by_hash[: max(1, len(ids) // 5)])
    return [one for one in ids if (one in val) == (subset == "val")]


def _files(
    folder: Path, suffixes: tuple[str, ...], root: Path, *, optional: bool = False, nested: bool = False
) -> dict[str, str]:
    """File names below a folder by id. A link is followed only where it stays inside `root`; hidden files, such as
    the `._p0.jpg` of Mac archives, are none."""
    if not folder.is_dir():
        if optional:
            return {}
        raise InputError(f"{folder}: no such folder; check data.root and data.layout")
    # The data set's folder may lie anywhere, as its user says; what it holds, folders too, stays inside.
    home = os.path.realpath(root)
    refuse_link_out(str(folder), home)
    found: dict[str, str] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                suffix = next((one for one in suffixes if entry.name.lower().endswith(one)), "")
                if not suffix:
                    if nested and entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{below}{entry.name}/")
                    continue
                if entry.is_symlink():
                    refuse_link_out(entry.path, home)
                one = (below + entry.name[: -len(suffix)]).replace("/", NESTED)
                if one in found:
                    raise InputError(f"{entry.path}: {found[one]} has the same id; rename one")
                found[one] = below + entry.name
    return found


def refuse_link_out(path: str, home: str) -> None:
    """Raises InputError where a file or folder leads out of the data set's real folder `home`."""
    if not Path(os.path.realpath(path)).is_relative_to(home):
        raise InputError(f"{path}: a link out of {home}; copy what it names there")
