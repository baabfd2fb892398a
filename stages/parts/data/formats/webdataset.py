"""WebDataset: tar files whose members `KEY.jpg` and `KEY.mask.png` are one example."""

from __future__ import annotations

import tarfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cache.errors import InputError
from stages.parts.data.formats.base import Example, Packed, Source, Tree, listed, subset_of
from stages.parts.data.formats.drawing import Drawing
from stages.parts.data.formats.pairs import names_beside, says_mask
from stages.parts.data.id_lists import NESTED, PHOTOS
from stages.parts.data.images import MASK_ENDINGS, MAX_BYTES, MAX_PIXELS, BadSample, read_mask

TITLE = "WebDataset"


class _Member(NamedTuple):
    """Where the bytes of a file lie within an uncompressed tar file."""

    tar: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes. Raises BadSample."""
        try:
            with self.tar.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise BadSample(f"{self.tar}: can't be read ({error.strerror}); check it") from error
        if len(data) < self.size:
            raise BadSample(f"{self.tar}: {self.name} is cut off; fetch the file anew")
        return data


def recognise(tree: Tree) -> str | None:
    """The tar files, in words."""
    files = tree.ending(".tar")
    return f"{tree.below(files[0])} and {len(files) - 1} more" if files else None


def read(tree: Tree) -> Source:
    """Every key with a photo and a mask; the masks' values stay as they are. Raises InputError."""
    files = tree.ending(".tar")
    found: dict[str, tuple[Path, dict[str, _Member]]] = {}
    for path in files:
        for member in _members(path):
            folder, _, base = member.name.removeprefix("./").rpartition("/")
            stem, _, kind = base.partition(".")
            key = f"{folder}/{stem}".strip("/").replace("/", NESTED)
            at, kinds = found.setdefault(key, (path, {}))
            if at != path:
                raise InputError(f"{path}: key {key!r} is in {at.name}, too; give each example its own key")
            kinds[kind.lower()] = member
    examples, lacking = [], []
    for key, (path, kinds) in sorted(found.items()):
        photo, mask = _photo(kinds), _mask(kinds)
        if photo is None or mask is None:
            lacking.append(key)
            continue
        packed = Packed(kinds[photo].read, f".{photo.rpartition('.')[2]}")
        examples.append(Example(key, packed, partial(_draw, kinds[mask]), subset_of(tree.below(path))))
    if not examples:
        held = ", ".join(sorted({kind for _, kinds in found.values() for kind in kinds})[:6]) or "nothing"
        raise InputError(f"{files[0]}: no key has a photo (.jpg) and a mask (.mask.png or .png); it holds {held}")
    notes = (f"left out: {listed(len(lacking), 'keys without photo or mask', lacking[0])}",) if lacking else ()
    return Source(examples, names_beside(tree), notes, raw=True)


def _members(path: Path) -> list[_Member]:
    try:
        with tarfile.TarFile(path) as tar:  # one that is compressed can't be read at an offset
            return [_Member(path, m.name, m.offset_data, m.size) for m in tar if m.isfile() and m.size <= MAX_BYTES]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{path}: isn't a plain tar file ({str(error).splitlines()[0]}); fetch it anew") from error


def _mask(kinds: dict[str, _Member]) -> str | None:
    """The kind that says it is a mask, or a .png beside a photo of another ending."""
    pictures = [kind for kind in kinds if f".{kind.rpartition('.')[2]}" in MASK_ENDINGS]
    named = [kind for kind in pictures if says_mask(kind)]
    plain = [kind for kind in pictures if kind == "png" and {"jpg", "jpeg", "webp"} & kinds.keys()]
    return next(iter([*named, *plain]), None)


def _photo(kinds: dict[str, _Member]) -> str | None:
    mask = _mask(kinds)
    pictures = [k for k in kinds if f".{k.rpartition('.')[2]}" in PHOTOS and k != mask and not says_mask(k)]
    return min(pictures, key=len, default=None)


def _draw(mask: _Member, size: tuple[int, int]) -> Drawing:
    return Drawing(read_mask(Path(f"{mask.tar}:{mask.name}"), MAX_PIXELS, mask.read()))
