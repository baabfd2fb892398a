"""data apply-concepts: the regions of chosen concepts become labels of a new data set.

reads: photos, seen labels, latent, concepts, membership | writes: NEW/images, NEW/masks, NEW/train.txt, NEW/val.txt
No label of an unseen class is copied into a training mask; evaluation masks keep all labels.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from cache.errors import InputError
from cache.files import write_whole
from cache.settings import IGNORE
from cache.tiers import CacheTiers
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import latent_mask
from stages.parts.mining.clustering import nearest
from stages.parts.mining.concepts import centred
from stages.running.concepts import half_centroids, read_concepts
from stages.running.progress import Bar


def write_data(
    out: Path,
    train: Dataset,
    val: Dataset,
    tiers: CacheTiers,
    names: Sequence[str],
    painted: Mapping[str, str],
) -> dict[str, int]:
    """Writes the data set `out` in the layout "folder"; returns the pixels that each chosen class gained.

    `names`: the classes of the new data set; mask value of each is its place + 1, 0 is no label. `painted`: parts of
    concepts ("3", or "3a", "3b" for a half) -> the class that their regions become. Raises InputError where the cache
    is not of these photos, one view each.
    """
    value = {name: place for place, name in enumerate(names, 1)}
    known = {"seen": [value[n] for n in train.vocabulary.seen], "all": [value[n] for n in train.vocabulary.ordered]}
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    gained = dict.fromkeys(painted.values(), 0)
    places = {record.id: i for i, record in enumerate(train.records)}
    classes = _Classes(tiers, painted)
    used: dict[str, list[str]] = {"train": [], "val": []}
    shards = tiers.membership.shards()
    with Bar("data apply-concepts", len(train) + len(val), "photos") as bar:
        for shard in shards:
            mined = tiers.latent.read(shard, ["cells", "local", "local_region", "local_offsets"])
            concept = tiers.membership.read(shard, ["concept"])["concept"]
            for row, name in enumerate(tiers.membership.shard_ids(shard)):
                bar.advance()
                if name not in places:
                    raise InputError(f"{name}: a view of a photo; masks need whole photos, so set views.count = 1")
                labels = train.labels(places[name], "seen")
                mask, regions = _numbered(labels, known["seen"]), latent_mask(labels, mined["cells"][row])
                own = slice(*mined["local_offsets"][row : row + 2])
                found = classes.of(mined["local"][own], concept[own])
                for region, one in zip(mined["local_region"][own], found, strict=True):
                    if one:
                        inside = regions == region
                        mask[inside] = value[one]
                        gained[one] += int(inside.sum())
                _put(out, train.records[places[name]].image, name, mask)
                used["train"].append(name)
        for i, record in enumerate(val.records):
            bar.advance()
            _put(out, record.image, record.id, _numbered(val.labels(i, "all"), known["all"]))
            used["val"].append(record.id)
    for subset, ids in used.items():
        write_whole(out / f"{subset}.txt", "".join(f"{one}\n" for one in ids).encode())
    return gained


class _Classes:
    """The class that each latent region becomes."""

    def __init__(self, tiers: CacheTiers, painted: Mapping[str, str]) -> None:
        self.painted, self.concepts = painted, read_concepts(tiers.concepts)
        split = sorted({int(part[:-1]) for part in painted if not part.isdigit()})
        self.parts = {c: half_centroids(c, self.concepts, tiers.latent, tiers.membership) for c in split}

    def of(self, tokens: np.ndarray, concept: np.ndarray) -> list[str]:
        """Class of each region by its raw token [P, D] and concept [P]; "" for none."""
        found = []
        for token, c in zip(tokens, concept.tolist(), strict=True):
            part = str(c)
            if part not in self.painted and c in self.parts:
                half = nearest(centred(token[None], self.concepts.mean), self.parts[c], 1)[1][0, 0]
                part += "ab"[half]
            found.append(self.painted.get(part, ""))
        return found


def _numbered(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Class indices uint8 [H, W] as mask values; 255 becomes 0."""
    table = np.zeros(IGNORE + 1, np.uint8)
    table[: len(values)] = values
    return table[labels]


def _put(out: Path, photo: Path, name: str, mask: np.ndarray) -> None:
    """A photo, as a hard link where the disk allows it, and its mask."""
    target = out / "images" / f"{name}{photo.suffix}"
    target.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(photo, target)
    if not target.exists():
        shutil.copy(photo, target)
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    write_whole(out / "masks" / f"{name}.png", buffer.getvalue())
