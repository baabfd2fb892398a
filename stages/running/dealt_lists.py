"""The lists that `data init` writes for a folder without any: both of them or none."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from cache.files import write_whole
from stages.parts.data.layouts import LAYOUTS

BEGUN = ".clip2seg-lists.json"
"""What a run that writes two lists leaves until both are there."""
_DEALT = ("train", "val")
"""Names of the lists that `init` writes where there are none."""


def write_lists(root: Path, path: str, lists: Mapping[str, Collection[str]]) -> None:
    """Both lists or none, also where the process is killed between them: `undo_half` finds what it began.

    path: where a layout has its lists, with `{list}` for the name.
    """
    texts = {path.format(list=name): "".join(f"{one}\n" for one in sorted(ids)) for name, ids in lists.items()}
    write_whole(root / BEGUN, json.dumps(texts).encode())
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(root / name, text.encode())
    (root / BEGUN).unlink()


def undo_half(root: Path) -> None:
    """Takes back the lists of a run that was killed between them; a list that was edited since stays."""
    try:
        begun = json.loads((root / BEGUN).read_bytes())
    except (OSError, ValueError):
        return
    places = [layout.lists[0].format(list=name) for layout in LAYOUTS.values() if layout.lists for name in _DEALT]
    for place in places if isinstance(begun, dict) else ():
        path = root / place
        if path.is_file() and path.read_text(encoding="utf-8") == begun.get(place):
            path.unlink()
    (root / BEGUN).unlink()
