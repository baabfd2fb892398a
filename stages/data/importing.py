"""`clip2seg data import`: makes of annotations in another format, once, the photos and masks that `data init` reads.

reads: FOLDER in one of the formats of `parts.data.formats` | writes: NEW/images, NEW/masks, NEW/names.txt, lists
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cache.errors import InputError
from cache.files import write_whole
from cache.settings import IGNORE, MOST_IN_A_BYTE, WIDE_IGNORE
from stages.parts.data.formats.base import Example, Packed, Source, Tree, list_tree
from stages.parts.data.formats.drawing import NO_LABEL
from stages.parts.data.formats.registry import Found, choose, read
from stages.parts.data.id_lists import check_plain
from stages.parts.data.images import MAX_PIXELS, BadSample, image_size
from stages.running.progress import Bar

MARK = ".clip2seg-import.json"
"""Says what NEW is made of; its `done` comes last."""
_NAMED = 3


@dataclass(frozen=True)
class ImportReport:
    """Result of `import_folder`."""

    out: Path
    format: str
    title: str
    photos: int
    kept: int
    """Photos that an earlier run had written."""
    classes: int
    named: int
    lists: tuple[str, ...]
    overlapped: int
    """Photos with a pixel that two objects of different classes claim."""
    unknown: int
    """Photos with pixels of a colour that no table names."""
    empty: int
    """Photos in which nothing is labelled."""
    notes: tuple[str, ...]
    bad: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**vars(self), "out": str(self.out)}

    def text(self) -> str:
        """The report as lines for a terminal, with what to do next."""
        lists = f", lists {' and '.join(self.lists)}" if self.lists else ""
        there = f" ({self.kept} were there)" if self.kept else ""
        lines = [f"took it for {self.title}", f"{self.photos} photos{there}, {self.classes} classes{lists}"]
        if self.overlapped:
            lines.append(
                f"objects of different classes overlap in {self.overlapped} photos: the smaller one is in front"
            )
        if self.unknown:
            lines.append(f"{self.unknown} photos hold colours in no table, as along smoothed edges: no label there")
        if self.empty:
            lines.append(f"nothing is labelled in {self.empty} photos")
        lines += self.notes
        lines += [f"left out: {line}" for line in self.bad[:_NAMED]]
        if len(self.bad) > _NAMED:
            lines.append(f"left out: ... and {len(self.bad) - _NAMED} more")
        out = shlex.quote(str(self.out))
        lines.append(f"wrote {out}; photos are hard links where the disk allows")
        if self.named < self.classes:
            lines.append(
                f"next: {self.classes - self.named} values have no name yet: write them into {out}/names.txt (CLIP "
                "reads them)"
            )
        lines.append(f"next: clip2seg data init {out}")
        return "\n".join(lines)


def import_folder(folder: str, out: str, format: str = "") -> ImportReport:
    """Converts a folder's annotations into `out`: photos, one mask a photo, names, and the lists that it says.

    format: its name (`registry.FORMATS`); "" recognises it. Masks are 8-bit grey, 16-bit above 254 classes. A stopped
    run goes on where it was; a finished one is only looked at. Raises InputError, before anything is written, where the
    folder holds no format or several, or `out` holds something else; photos that can't be used are left out by name.
    """
    root, target = Path(folder).expanduser(), Path(out).expanduser()
    tree = list_tree(root)
    if target.resolve().is_relative_to(root.resolve()):
        raise InputError(f"--out {out}: lies in {folder}, whose files it would add to; give a folder beside it")
    found = choose(tree, format)
    source = read(tree, found.name)
    for one in source.examples:
        check_plain(one.id, str(one.photo if isinstance(one.photo, Path) else root))
    twice = [one for one, n in Counter(example.id for example in source.examples).items() if n > 1]
    if twice:
        raise InputError(f"{root}: two photos would be called {twice[0]!r}; rename one")
    _begin(target, _digest(found, source, tree))
    bad: list[str] = []
    tally: Counter[str] = Counter()
    subsets: dict[str, list[str]] = {}
    held: set[int] = set()
    with Bar("data import", len(source.examples), "photos") as bar:
        for example in source.examples:
            bar.advance()
            try:
                shown = _write(target, example, source, tally)
            except BadSample as error:
                bad.append(str(error))
                continue
            held |= shown
            tally["empty"] += not shown
            subsets.setdefault(example.subset, []).append(example.id)
    if not any(subsets.values()):
        raise InputError(f"{bad[0]} (none of the {len(bad)} photos can be used)")
    lists = _write_lists(target, subsets)
    values = sorted(held | source.names.keys())
    if not (target / "names.txt").exists():  # one that is there may have been completed since
        write_whole(target / "names.txt", _names_text(values, source).encode())
    mark = json.loads((target / MARK).read_bytes())
    write_whole(target / MARK, json.dumps({**mark, "done": True}).encode())
    return ImportReport(
        out=target,
        format=found.name,
        title=str(found),
        photos=sum(map(len, subsets.values())),
        kept=tally["kept"],
        classes=len(values),
        named=len(source.names.keys() & set(values)),
        lists=lists,
        overlapped=tally["overlapped"],
        unknown=tally["unknown"],
        empty=tally["empty"],
        notes=source.notes,
        bad=tuple(bad),
    )


def _digest(found: Found, source: Source, tree: Tree) -> str:
    """Over the format, the names, the photos' ids, and the sizes and times of all annotation files."""
    photos = {one.photo for one in source.examples}
    digest = hashlib.sha256(json.dumps([found.name, sorted(source.names.items())]).encode())
    for one in source.examples:
        digest.update(f"{one.id}\0{one.subset}\0".encode())
    for path in tree.files:
        if path not in photos:
            about = path.stat()
            digest.update(f"{tree.below(path)}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _begin(target: Path, digest: str) -> None:
    """Makes `target` this import's folder. Raises InputError where it is something else."""
    mark = target / MARK
    with suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads(mark.read_bytes())["digest"] == digest:
            return
        raise InputError(f"{target}: was imported from other annotations; give another --out, or delete that folder")
    try:
        if target.is_dir() and any(target.iterdir()):
            raise InputError(f"{target}: holds files already; give --out a new folder")
        for folder in (target / "images", target / "masks"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: can't be made ({error.strerror}); give --out a folder that can") from error
    write_whole(mark, json.dumps({"digest": digest}).encode())


def _write(target: Path, example: Example, source: Source, tally: Counter[str]) -> set[int]:
    """Writes a photo and its mask, unless both are there; the values that the mask holds, "no label" apart."""
    suffix = example.photo.suffix.lower()
    photo, mask = target / "images" / f"{example.id}{suffix}", target / "masks" / f"{example.id}.png"
    wide = max([*source.names, *source.unnamed], default=0) > MOST_IN_A_BYTE
    if photo.is_file() and mask.is_file():
        tally["kept"] += 1
        with Image.open(mask, formats=("PNG",)) as image:
            stored = np.asarray(image)
            tally.update(key for key in _REMARKS if image.info.get(key))
        return _held(stored, source)
    if isinstance(example.photo, Packed):
        write_whole(photo, example.photo.read())
    elif not photo.exists():
        image_size(example.photo, MAX_PIXELS)  # a damaged photo is left out before it is linked
        _link(example.photo, photo)
    try:
        size = image_size(photo, MAX_PIXELS)
        drawing = example.draw(size)
        if drawing.values.shape != size:
            height, width = drawing.values.shape
            raise BadSample(f"{photo.name}: labels are {width} x {height} pixels, the photo {size[1]} x {size[0]}")
    except BadSample:
        photo.unlink()
        raise
    stored = drawing.values if source.raw else _stored(drawing.values, wide)
    remarks = [key for key in _REMARKS if getattr(drawing, key)]
    write_whole(mask, _png(stored, remarks))
    tally.update(remarks)
    return _held(stored, source)


def _link(source: Path, target: Path) -> None:
    """The file under another name: a hard link where the disk allows, else a copy."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), part)
    except OSError:
        try:
            shutil.copyfile(source, part)
        except OSError as error:
            raise InputError(f"{target}: can't be written ({error.strerror}); check the folder") from error
    part.replace(target)


def _stored(values: NDArray[np.integer[Any]], wide: bool) -> NDArray[np.integer[Any]]:
    if wide:
        return np.where(values == NO_LABEL, WIDE_IGNORE, values).astype(np.uint16)
    return np.where(values == NO_LABEL, IGNORE, values).astype(np.uint8)


def _held(stored: NDArray[np.integer[Any]], source: Source) -> set[int]:
    """The values of a mask that are classes, or may be: 0 and "no label" are none unless they are named."""
    none = {0, IGNORE, WIDE_IGNORE} if source.raw else {0, WIDE_IGNORE if stored.dtype == np.uint16 else IGNORE}
    return set(np.unique(stored).tolist()) - (none - source.names.keys())


_REMARKS = ("overlapped", "unknown")
"""What is said of a `Drawing` in the end."""


def _png(values: NDArray[np.integer[Any]], remarks: Sequence[str] = ()) -> bytes:
    """A mask as PNG. What is remarkable of it is noted inside, for a run that finds it there."""
    about = PngInfo()
    for key in remarks:
        about.add_text(key, "yes")
    buffer = io.BytesIO()
    if values.dtype.kind not in "iu" or values.min(initial=0) < 0 or values.max(initial=0) > WIDE_IGNORE:
        raise BadSample("labels don't fit 16 bits")
    narrow = values.dtype == np.uint8 or (values.dtype != np.uint16 and values.max(initial=0) <= IGNORE)
    Image.fromarray(values.astype(np.uint8 if narrow else np.uint16)).save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


def _write_lists(target: Path, subsets: dict[str, list[str]]) -> tuple[str, ...]:
    """The lists that the annotations say, where they say a training and another one for every photo."""
    said = {name: ids for name, ids in subsets.items() if name}
    if "train" not in said or len(said) < 2 or subsets.get(""):
        return ()
    for name, ids in said.items() if not (target / "train.txt").exists() else ():
        write_whole(target / f"{name}.txt", "".join(f"{one}\n" for one in sorted(ids)).encode())
    return tuple(f"{name}.txt" for name in said)


def _names_text(values: list[int], source: Source) -> str:
    """names.txt: a value and a name on each line; a value without a name is a comment to be completed."""
    lines = [f"{v} {source.names[v]}" for v in values if v in source.names]
    bare = [v for v in values if v not in source.names]
    if bare:
        lines.append("# Without a name; write one behind the value and take the mark # away:")
        lines += [f"# {v}   ({source.unnamed[v]})" if v in source.unnamed else f"# {v}" for v in bare]
    return "".join(f"{line}\n" for line in lines)
