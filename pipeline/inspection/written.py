"""`inspect PRESET mining --write`: the merge threshold that fits goes into the preset, comments kept."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.files import write_whole

TABLE, KEY = "mine-latent", "merge_threshold"
AIM_OPEN, AIM_LABELLED = (3, 6), (1, 4)
"""Latent classes a view to aim at where at least half of the cells are unannotated, and elsewhere (method.md, 2)."""


def fitting(rows: Sequence[Mapping[str, Any]], now: float) -> float | None:
    """The threshold of `inspect mining` whose median is nearest the middle of the aim, `now` where that is within it.

    rows: with `threshold`, `median` and the share `unannotated` of cells. None where no median is within the aim.
    """
    least, most = AIM_OPEN if rows[0]["unannotated"] >= 0.5 else AIM_LABELLED
    good = [row for row in rows if least <= row["median"] <= most]
    if any(row["threshold"] == now for row in good):
        return now
    middle = (least + most) / 2
    best = min(good, key=lambda row: (abs(row["median"] - middle), abs(row["threshold"] - now)), default=None)
    return None if best is None else float(best["threshold"])


def write_threshold(preset: str, rows: Sequence[Mapping[str, Any]], now: float) -> str:
    """Writes the threshold that fits into a preset's file, the earlier file beside it as .bak; says what it did.

    Raises InputError for a shipped preset, where none fits, and for a file whose line can't be told.
    """
    path, found = Path(preset), fitting(rows, now)
    if path.suffix != ".toml":
        raise InputError(
            f"inspect mining --write: {preset} is a shipped preset; write a file of your own that begins with "
            f'`extends = "{preset}"`, or use --set {TABLE}.{KEY}=...'
        )
    if found is None:
        raise InputError(
            f"inspect mining --write: no threshold gives a number of latent classes to aim at; try {TABLE}.windows, or "
            f"set {TABLE}.{KEY} by hand"
        )
    if found == now:
        return f"{path}: {KEY} = {now:g} fits and stays"
    before = path.read_text(encoding="utf-8")
    after = with_value(before, found)
    if after is None:
        raise InputError(f"{path}: its table [{TABLE}] can't be changed line by line; write {KEY} = {found:g} into it")
    write_whole(path.with_name(f"{path.name}.bak"), before.encode())
    write_whole(path, after.encode())
    return f"{path}: {KEY} = {found:g} written (it was {now:g}); next: mine-latent, at a new address"


def with_value(text: str, value: float) -> str | None:
    """A preset's text with the threshold in its table; None where that isn't all that changes."""
    header = re.search(rf"^[ \t]*\[[ \t]*{TABLE}[ \t]*\][ \t]*(#.*)?$", text, re.M)
    if header is None:
        made = f"{text.rstrip()}\n\n[{TABLE}]\n{KEY} = {value:g}\n"
    else:
        end = re.compile(r"^[ \t]*\[[ \t]*[A-Za-z]", re.M).search(text, header.end())
        body = text[header.end() : end.start() if end else len(text)]
        line = re.compile(rf"^([ \t]*{KEY}[ \t]*=[ \t]*)[^#\s]+", re.M)
        new = line.sub(lambda m: f"{m[1]}{value:g}", body, count=1)
        if not line.search(body):
            new = f"\n{KEY} = {value:g}{body}"
        made = text[: header.end()] + new + (text[end.start() :] if end else "")
    try:
        wanted = tomllib.loads(text)
        wanted.setdefault(TABLE, {})[KEY] = float(f"{value:g}")
        return made if tomllib.loads(made) == wanted else None
    except (tomllib.TOMLDecodeError, AttributeError, TypeError):
        return None
