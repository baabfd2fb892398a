"""Photos and grey masks under any names: which folder holds which, and which mask belongs to which photo."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from cache.errors import InputError
from stages.parts.data.formats.base import Example, Source, Tree, class_name, ids_of, listed, read_json, subset_of
from stages.parts.data.formats.drawing import Drawing
from stages.parts.data.images import MASK_ENDINGS, MAX_PIXELS, BadSample, mask_mode, read_mask
from stages.parts.data.names import read_names
from stages.parts.data.pairing import paired

TITLE = "photos and masks"
_MASK = re.compile(
    r"(?<![a-z])(semantic|segmentations?|seg|pixel|masks?|labels?|annotations?|annots?|anns?|gt|ground ?truths?|class"
    r"|aug|colou?rs?)(?![a-z])|(?<=[a-z])(annots?|masks?|labels?)(?![a-z])"
)
"""Words in the names of folders and files of masks."""
_OBJECTS = re.compile(r"(?<![a-z])(objects?|instances?)(?![a-z])")
_PHOTO = re.compile(r"(?<![a-z])(rgb|jpeg|original|images?|imgs?|photos?|pictures?|frames?|inputs?)(?![a-z])")
_LEAST = 0.9
"""Share of a folder's masks that must have a photo."""
_LOOKED_AT = 3


class Paired(NamedTuple):
    """Photos with their masks, in the order of the photos, and how many photos have none."""

    pairs: tuple[tuple[Path, Path], ...]
    bare: tuple[Path, ...]

    @property
    def coloured(self) -> bool:
        """Whether the first masks hold colours instead of numbers."""
        return any(mask_mode(mask) == "colours" for _, mask in self.pairs[:_LOOKED_AT])


def words(name: str) -> str:
    """A name's words in small letters, spaces between them: SegmentationClass_2 -> "segmentation class 2"."""
    return re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)).lower().strip()


def says_mask(name: str) -> bool:
    """Whether a file or folder is called as masks are."""
    return bool(_MASK.search(words(name)))


@lru_cache(maxsize=4)
def find_pairs(tree: Tree) -> Paired:
    """Photos and masks of one folder, or of two folders whose names differ by words for photos and for masks:
    `images/train` + `masks/train`, `val/img` + `val/ann`, `train` + `train_labels`, `.` + `labels`."""
    photos: dict[str, dict[Path, list[Path]]] = {}
    masks: dict[str, dict[Path, list[Path]]] = {}
    for path in tree.photos:
        folder = path.parent.relative_to(tree.root)
        text = " / ".join(words(part) for part in folder.parts)
        if _OBJECTS.search(text):
            continue
        bare, found = _MASK.subn(" ", text)
        side = masks if found else photos
        key = " ".join(_PHOTO.sub(" ", bare).replace("/", " ").split())
        side.setdefault(key, {}).setdefault(folder, []).append(path)
    pairs: dict[Path, Path] = {}
    bare_photos: list[Path] = []
    for key, folders in sorted(photos.items()):
        files = [path for paths in folders.values() for path in paths]
        fits = [(at, _fit(files, theirs)) for at, theirs in sorted(masks.get(key, {}).items())]
        fits = [(at, fit) for at, fit in fits if fit]
        if len(fits) > 1:
            raise InputError(
                f"{tree.root}: masks of the same photos lie in {fits[0][0]} and in {fits[1][0]}; move one of them away"
            )
        fit = fits[0][1] if fits else _fit_in_one(files)
        pairs |= fit
        bare_photos += [path for path in files if fit and path not in fit and path not in fit.values()]
    return Paired(tuple(sorted(pairs.items())), tuple(bare_photos))


def _fit(photos: list[Path], masks: list[Path]) -> dict[Path, Path]:
    """Mask by photo, where nearly all masks find one; nothing otherwise."""
    by_stem, files = {p.stem: p for p in photos}, {m.stem: m for m in masks if m.suffix.lower() in MASK_ENDINGS}
    found = paired(sorted(by_stem), {stem: stem for stem in files})
    if not found or len(found) < _LEAST * len(files):
        return {}
    return {by_stem[one]: files[stem] for one, stem in found.items()}


def _fit_in_one(files: list[Path]) -> dict[Path, Path]:
    """The same in one folder: p1.jpg + p1.png, or p1.png + p1_mask.png."""
    masks = [path for path in files if says_mask(path.stem)]
    if not masks:
        masks = [path for path in files if path.suffix.lower() == ".png"]
    photos = [path for path in files if path not in set(masks)]
    return _fit(photos, masks) if photos and masks else {}


def recognise(tree: Tree) -> str | None:
    """The first photo and mask, in words."""
    found = find_pairs(tree)
    if not found.pairs or found.coloured:
        return None
    photo, mask = found.pairs[0]
    return f"{tree.below(photo)} with {tree.below(mask)} and {len(found.pairs) - 1} more"


def read(tree: Tree) -> Source:
    """All photos with a mask; the masks' values stay as they are. Raises InputError."""
    found = find_pairs(tree)
    if not found.pairs:
        raise InputError(f"{tree.root}: no photo has a mask of its name; name folders images and masks, files alike")
    photos = [photo for photo, _ in found.pairs]
    examples = [
        Example(one, photo, partial(raw_mask, mask), subset_of(tree.below(photo.parent)))
        for one, (photo, mask) in zip(ids_of(tree, photos), found.pairs, strict=True)
    ]
    return Source(examples, names_beside(tree), left_out(found), raw=True)


def left_out(found: Paired) -> tuple[str, ...]:
    """A line on photos without a mask, where there are such ones."""
    bare = found.bare
    return (f"left out: {listed(len(bare), 'photos without a mask', bare[0].name)}",) if bare else ()


def raw_mask(mask: Path, size: tuple[int, int]) -> Drawing:
    """A mask's values as they are."""
    return Drawing(read_mask(mask, MAX_PIXELS))


def names_beside(tree: Tree) -> Mapping[int, str]:
    """Names by mask value from what people keep beside masks: names.txt, id2label.json, Roboflow's _classes.csv."""
    for path in tree.files:
        if path.name == "names.txt":
            return {v: class_name(n) for v, n in read_names(path).items()}
        if path.name == "id2label.json":
            try:
                return {int(v): class_name(n) for v, n in read_json(path).items()}
            except (AttributeError, TypeError, ValueError) as error:
                raise InputError(f'{path}: write {{"1": "cat", ...}}: a mask value and its name') from error
        if path.name == "_classes.csv":
            rows = csv_rows(path)[1:]
            try:
                return {int(row[0]): class_name(row[1]) for row in rows}
            except (IndexError, ValueError) as error:
                raise InputError(f"{path}: write a mask value and a name on each line") from error
    return {}


def csv_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file without empty ones. Raises BadSample."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadSample(f"{path}: can't be read as CSV ({error}); export it anew") from error
