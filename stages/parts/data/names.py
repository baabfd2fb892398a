"""Class names by mask value, as a user wrote them: in a list of names, or in an earlier classes.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from cache.errors import InputError

_MAX_RAW = 65535


def read_names(path: Path) -> dict[int, str]:
    """Class names by mask value from a file of lines `VALUE NAME` (also `VALUE: NAME`, `VALUE,NAME`).

    Raises InputError for a line that is neither, a value twice, and a name that can't be one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as text; write a value and a name on each line") from error
    found: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d{1,5})\s*[:,;=\s]\s*(\S.*?)\s*", line)
        if match is None:
            raise InputError(f"{path}: line {number} is {line[:60]!r}; write a value and a name, as in `12 sheep`")
        value, name = int(match[1]), match[2]
        if value > _MAX_RAW:
            raise InputError(f"{path}: line {number}: a mask can't hold {value}; use 0 to {_MAX_RAW}")
        if value in found:
            raise InputError(f"{path}: line {number}: value {value} is named twice")
        if not name.isprintable() or set(name) & set("<>/\\=|") or name.startswith(".") or len(name) > 100:
            raise InputError(f"{path}: line {number}: {name[:60]!r} is no class name; use plain words")
        found[value] = name
    return found


class Earlier(NamedTuple):
    """What a user may have edited in an earlier classes.toml."""

    names: dict[int, str]
    """By mask value, without those that only repeat it."""
    unseen: tuple[str, ...] | None
    """None where it doesn't say."""
    ignored: tuple[int, ...]
    splits: dict[str, list[str]]
    background: tuple[int, ...]
    title: str
    say: dict[str, str]


def read_earlier(vocabulary: Path) -> Earlier | None:
    """What an earlier classes.toml says; None where it is none or can't be read."""
    try:
        table = tomllib.loads(vocabulary.read_text(encoding="utf-8"))
        names = {int(v): str(n) for v, n in zip(table["values"], table["names"], strict=True)}
        unseen, splits = table.get("unseen"), table.get("splits", {})
        return Earlier(
            {v: n for v, n in names.items() if n != f"class {v}"},
            None if unseen is None else tuple(map(str, unseen)),
            tuple(int(v) for v in (*table.get("ignore", ()), *table.get("background", ()))),
            {str(name): [str(n) for n in split] for name, split in splits.items()},
            tuple(int(v) for v in table.get("background", ())),
            str(table.get("title", "")),
            {str(name): str(text) for name, text in table.get("say", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
