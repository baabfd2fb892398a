"""Photos and masks that were edited since the cache was made of them: their names move an address, they don't."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime

from cache.errors import InputError
from cache.store import Artifact
from stages.parts.data.datasets import Dataset
from stages.parts.data.layouts import Record

BEGUN = "zarr.json"
"""What an artifact is begun with."""
OF_PHOTOS = ("dense-", "affinity-")
"""Artifacts that no mask has a part in."""


def check_unedited(tokens: Artifact, data: Dataset, views: int, made: Sequence[str]) -> None:
    """Raises InputError where a photo or a mask of `data` is not the one that `tokens`, `views` of each photo, are of.

    Files that the file system has known unchanged since before `tokens` were begun (ctime, which nothing sets back)
    are not opened. An edit that leaves the labels of seen classes alone is none. `made`: addresses of what to remove.
    """
    begun = tokens.at.modified(BEGUN)
    if begun is None or data.drawn_from:
        return
    since = datetime.strptime(begun, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC).timestamp()
    newer = [i for i, record in enumerate(data.records) if _changed(data, record) >= since]
    if not newer:
        return
    from stages.parts.teacher.crops import view_id  # with torch, which a stage that has nothing to do need not load

    crcs, rows = tokens.load(["photo_crc", "labels_crc"]), {view: row for row, view in enumerate(tokens.ids())}
    for i in newer:
        record = data.records[i]
        row = rows.get(view_id(record.id, 0, views))
        if row is None:  # set aside when it was extracted
            continue
        if data.photo_crc(i) != crcs["photo_crc"][row]:
            file = record.image
        elif zlib.crc32(data.labels(i).tobytes()) != crcs["labels_crc"][row]:
            file = record.mask
        else:
            continue
        stale = [name for name in made if file is record.image or not name.startswith(OF_PHOTOS)]
        raise InputError(
            f"{file}: edited since {tokens} was made of it; put the former one back, or remove what was made of it "
            f"(`clip2seg cache rm NAME --force`: {', '.join(stale)}) and run the stages again"
        )


def _changed(data: Dataset, record: Record) -> float:
    """When the photo or the mask that is read of it was last changed [s]; files that are gone were changed now."""
    files = [record.image] if record.id in data.unlabelled else [record.image, record.mask]
    try:
        return max(file.stat().st_ctime for file in files)
    except OSError:
        return float("inf")
