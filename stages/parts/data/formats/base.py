"""What an annotation format gives, whatever it is: photos, their labels, and the names of the labels' values.

A format is a module with `TITLE`, `recognise(tree)` and `read(tree)`; `registry` lists them. What is read was made by
other programs and may be damaged or hostile: a fault of one photo's labels is a BadSample, of the whole an InputError.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from cache.errors import InputError
from stages.parts.data.formats.drawing import NO_LABEL, NOTHING, Drawing
from stages.parts.data.id_lists import NESTED, PHOTOS
from stages.parts.data.images import MAX_BYTES, BadSample
from stages.parts.data.layouts import refuse_link_out
from stages.parts.data.proposals import BACKGROUND, says_nothing

_MAX_JSON = 2**32
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Tree:
    """The files of a folder, found once for all formats; hidden ones are none."""

    root: Path
    files: tuple[Path, ...]
    """Sorted, each below `root`."""

    @cached_property
    def photos(self) -> tuple[Path, ...]:
        """All files that are named as pictures, masks among them."""
        return tuple(self.ending(*PHOTOS))

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of these endings, in small letters or capitals."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def below(self, path: Path) -> str:
        """A file as it is called within the folder."""
        return path.relative_to(self.root).as_posix()


def list_tree(root: Path) -> Tree:
    """All files below `root`. Raises InputError for no folder and for a link that leads out of it."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds the photos and their annotations")
    home, found = os.path.realpath(root), []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if path.is_symlink():
                refuse_link_out(str(path), home)
            found.append(path)
    return Tree(root, tuple(found))


class Packed(NamedTuple):
    """A photo inside another file: how its bytes are got, and the ending that its file should bear."""

    read: Callable[[], bytes]
    suffix: str


@dataclass(frozen=True)
class Example:
    """One annotated photo."""

    id: str
    """A plain name, the photo's and mask's in the data set made of it."""
    photo: Path | Packed
    draw: Callable[[tuple[int, int]], Drawing]
    """The labels for a photo of (H, W). Raises BadSample."""
    subset: str = ""
    """train, val or test; "" where nothing says it."""


@dataclass(frozen=True)
class Source:
    """All that a format found in a folder."""

    examples: Sequence[Example]
    names: Mapping[int, str]
    """Class name of each value; values without a name may occur."""
    notes: tuple[str, ...] = ()
    """What a user should know, one line each: what is left out, and why."""
    raw: bool = False
    """Whether labels hold raw mask values that stay as they are, 255 or 65535 for "no label" among them."""
    unnamed: Mapping[int, str] = field(default_factory=dict)
    """What is known of a value without a name, such as its colour."""


@contextmanager
def blaming(path: Path, what: str) -> Iterator[None]:
    """Any fault that damaged annotations cause inside becomes a BadSample that names the file and the part."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # wrong types, lengths, numbers: whatever a damaged file makes the arithmetic raise
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | TypeError) else str(error)
        raise BadSample(
            f"{path}: {what} can't be read ({reason.splitlines()[0][:120]}); correct or remove it"
        ) from error


def read_json(path: Path, most: int = _MAX_JSON) -> Any:
    """A JSON file. Raises BadSample where it is none or has more than `most` bytes."""
    try:
        if path.stat().st_size > most:
            raise BadSample(f"{path}: more than {most} bytes; split it")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadSample(f"{path}: can't be read ({error.strerror}); check it") from error
    except (ValueError, RecursionError) as error:
        reason = "empty file" if path.stat().st_size == 0 else str(error).splitlines()[0]
        raise BadSample(f"{path}: isn't valid JSON ({reason}); export it anew") from error


def read_text(path: Path) -> str:
    """A text file. Raises BadSample where it can't be read as one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadSample(f"{path}: more than {MAX_BYTES} bytes; split it")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadSample(f"{path}: can't be read ({error.strerror}); check it") from error
    except UnicodeDecodeError as error:
        raise BadSample(f"{path}: isn't text in UTF-8; save it as such") from error


def check_size(path: Path, image: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raises BadSample where an image's entry names another size than the photo has."""
    declared = (image.get("height", size[0]), image.get("width", size[1]))
    if declared != size:
        turned = " (rotated by EXIF?)" if declared == size[::-1] else ""
        raise BadSample(
            f"{path}: {image.get('file_name')!r} is {declared[1]} x {declared[0]} pixels there, the photo {size[1]} x "
            f"{size[0]}{turned}; put the photo there that was annotated"
        )


def class_name(text: object) -> str:
    """A class name as it can be kept: without what marks paths, HTML and words, at most 100 characters."""
    plain = re.sub(r"[<>/\\=|\s]+", " ", str(text)).strip(" .")
    return "".join(c for c in plain if c.isprintable())[:100].strip() or "nameless"


def numbered(names: Sequence[str]) -> tuple[dict[str, int], dict[int, str]]:
    """Values 1, 2, ... for class names in their order: (value by name, name by value).

    Names alike have one value. `void` and the like are no label, `background` is what no object covers.
    """
    value: dict[str, int] = {}
    for name in names:
        if says_nothing(name):
            value[name] = NO_LABEL
        elif name.strip("_ ").lower() == BACKGROUND:
            value[name] = NOTHING
        elif name not in value:
            value[name] = 1 + sum(v > NOTHING for v in value.values())
    return value, {v: name for name, v in value.items() if v > NOTHING}


def subset_of(text: str) -> str:
    """The list that a path's words name (train, val or test): its last such word decides; "" where there is none."""
    words = re.split(r"[^a-z]+", text.lower())
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "")


def ids_of(tree: Tree, photos: Sequence[Path]) -> list[str]:
    """An id for each photo: its stem where all differ, else its path in the folder with `__` for each slash."""
    stems = [path.stem for path in photos]
    if len(set(stems)) == len(stems):
        return stems
    paths = [tree.below(path.with_suffix("")).replace("/", NESTED) for path in photos]
    twice = Counter(paths)
    # a.jpg beside a.png
    return [one if twice[one] == 1 else f"{one}_{path.suffix[1:]}" for one, path in zip(paths, photos, strict=True)]


class PhotoFinder:
    """Finds the file that an annotation means by a photo's name or path, wherever below the folder it lies."""

    def __init__(self, tree: Tree) -> None:
        self._by_name: dict[str, list[Path]] = {}
        for path in tree.photos:
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, named: object, near: Path) -> Path | None:
        """The photo called `named`; among several of one name the one whose path says most of `named`, then the one
        that shares most with the annotation file `near`. None where there is none."""
        parts = re.split(r"[/\\]+", str(named))
        candidates = self._by_name.get(parts[-1], [])
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        hints = set(re.split(r"[/\\_.]+", str(near)))

        def fit(path: Path) -> tuple[int, int]:
            own = path.parts
            same = next((i for i, (a, b) in enumerate(zip(reversed(parts), reversed(own), strict=False)) if a != b), 99)
            return same, sum(part in hints for part in own)

        return max(candidates, key=fit)


def listed(count: int, what: str, first: str) -> str:
    """`3 photos that ... (first p1.jpg)`: one line for many of a kind."""
    return f"{count} {what} (first {first})"
