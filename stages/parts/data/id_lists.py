"""Lists of photos: the files that hold their ids, and the ids that a name may be."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cache.errors import InputError

_LISTS = Path(__file__).parent / "lists"
PHOTOS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_PHOTO_NAME = re.compile(rf"(.+?)({'|'.join(map(re.escape, PHOTOS))})(?:[\s,;].*)?", re.IGNORECASE)
"""A photo's path at the beginning of a line, whatever follows it."""
NESTED = "__"
"""Stands for the slash in the id of a photo in a sub-folder."""


def read_ids(path: Path, folder: str = "", *, nested: bool = False) -> list[str]:
    """The ids of a list file: one plain name a line, no empty list, none twice. Raises InputError.

    Lines as other tools write them are read too: `p0.jpg`, and with the photos' folder `images/p0.jpg masks/p0.png`.
    nested: photos may lie in sub-folders, whose slashes are `__` in the id.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as text; write one id a line") from error
    return _checked([_id_of(line.strip(), folder, nested) for line in lines if line.strip()], path)


def _id_of(line: str, folder: str, nested: bool) -> str:
    """The id in a line of a list; a line that is no photo's path below the layout's folder stays as it is.

    The folder may stand at the line's beginning, or behind the path that its writer had it at.
    """
    match = _PHOTO_NAME.fullmatch(line)
    if match is None:
        return line
    stem = match[1].removeprefix("./")
    if folder:
        rooted = f"/{stem.removeprefix('/')}"
        stem = rooted.partition(f"/{folder}/")[2] if f"/{folder}/" in rooted else stem
    parts = stem.split("/")
    if len(parts) > 1 and (not nested or not all(p.strip(".") for p in parts)):
        return line
    return NESTED.join(parts)


def shipped_list(name: str) -> list[str]:
    """An official list that comes with the program: voc_train, voc_train_aug, voc_val, context_val."""
    return read_ids(_LISTS / f"{name}.txt")


def detail_ids(path: Path, phase: str) -> list[str]:
    """The ids of one phase (train or val) in PASCAL in Detail's `trainval_merged.json`."""
    try:
        images = json.loads(path.read_bytes())["images"]
        ids = [Path(image["file_name"]).stem for image in images if image["phase"] == phase]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: isn't PASCAL in Detail's file (images with file_name, phase); fetch it anew"
        ) from error
    return _checked(sorted(ids), path)


def _checked(ids: list[str], path: Path) -> list[str]:
    if not ids:
        raise InputError(f"{path}: the list is empty; write one id a line")
    for one in ids:
        check_plain(one, str(path))
    if len(set(ids)) < len(ids):
        twice = next(one for i, one in enumerate(ids) if one in ids[:i])
        raise InputError(f"{path}: id {twice!r} is listed twice; take one out")
    return ids


def check_plain(name: str, where: str) -> None:
    """Ids and list names become file names: nothing in them may leave the folder."""
    plain = name.isprintable() and not set(name) & set("/\\") and not name.startswith(".") and 0 < len(name) <= 200
    if not plain:
        raise InputError(f"{where}: {name[:60]!r} isn't a plain name; give the file's name alone, without folder")
