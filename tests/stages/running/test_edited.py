"""Photos and masks that are edited after the cache was made of them are noticed, also where every stage had ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from cache.location import Location
from stages.parts.data.datasets import Dataset
from tests.conftest import CLASSES, UNSEEN

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_an_edited_mask_or_photo_stops_stages_that_had_ended(fresh_tiny: Tiny) -> None:
    fresh_tiny.run("train")
    data = fresh_tiny.plan().train_data
    photo, mask = data.records[1].image, data.records[1].mask
    known, pixels = mask.read_bytes(), np.array(Image.open(mask))
    changed = pixels.copy()
    changed[:6] = 1
    Image.fromarray(changed).save(mask)
    for stage in ("extract", "train"):
        with pytest.raises(InputError, match=f"{mask.name}: edited since .* --force`: tokens-.*, latent-.*, train-"):
            fresh_tiny.run(stage)
    Image.fromarray(pixels).save(mask, compress_level=0)
    assert mask.read_bytes() != known
    assert fresh_tiny.run("extract")["already_complete"] and fresh_tiny.run("train")["already_complete"]
    unseen = CLASSES.index(UNSEEN[0]) + 1
    hidden = next(file for file in mask.parent.iterdir() if (np.array(Image.open(file)) == unseen).any())
    labels = np.array(Image.open(hidden))
    Image.fromarray(np.where(labels == unseen, np.uint8(255), labels)).save(hidden)
    assert fresh_tiny.run("train")["already_complete"], "labels of unseen classes have no part in it"
    taken = bytearray(photo.read_bytes())  # another size would be another photo, and so another address
    taken[-3] ^= 1
    photo.write_bytes(taken)
    with pytest.raises(InputError, match=f"{photo.name}: edited since .* --force`: dense-.*, tokens-"):
        fresh_tiny.run("train")


def test_files_that_are_older_than_the_cache_are_not_opened(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.run("extract")

    def opened(*_: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(Location, "modified", lambda *_: "2999-01-01 00:00:00 UTC")
    monkeypatch.setattr(Dataset, "photo_crc", opened)
    monkeypatch.setattr(Dataset, "labels", opened)
    assert tiny.run("extract")["already_complete"]
