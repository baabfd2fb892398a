"""What the student trains on: crops with pseudo masks Y_p and the cached tokens of the regions still visible.

Everything random is a pure function of (seed, image id, epoch), so a run resumed at any iteration draws the same
batches. Reads seen labels only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from cache.errors import InputError
from cache.settings import IGNORE
from stages.parts.data.datasets import Dataset
from stages.parts.data.photometric import distorted, draw_distortion
from stages.parts.data.regions import latent_ids, pseudo_mask
from stages.parts.data.views import (
    Array,
    ViewsConfig,
    apply_cells,
    apply_image,
    byte_counts,
    draw_labelled,
    inside,
    least_size,
    view_seed,
)
from stages.parts.students.inputs import normalised


@dataclass(frozen=True)
class CachedTokens:
    """What training reads of the cache, for R views: small arrays, held in memory.

    `ids` name of each view; `tokens` global [R, D]; `cells` latent ids uint8 [R, h, w]; `local` [p, D] with
    `region` [p] (id in Y_p: class index, or K_s + latent id) and `offsets` [R + 1], seen and latent together.
    `concept` int64 [p]: that of each latent region, -1 for a seen one; `pseudo` uint8 [R, h, w]: pseudo label of each
    cell, 255 = none. Both None where they are not read.
    """

    ids: list[str]
    tokens: np.ndarray
    cells: Array
    local: np.ndarray
    region: np.ndarray
    offsets: np.ndarray
    labels_crc: np.ndarray
    photo_crc: np.ndarray
    concept: np.ndarray | None = None
    pseudo: Array | None = None

    @classmethod
    def joined(
        cls,
        ids: list[str],
        seen: dict[str, np.ndarray],
        latent: dict[str, np.ndarray],
        num_seen: int,
        concept: np.ndarray | None = None,
    ) -> CachedTokens:
        """Joins the arrays of the artifacts `tokens` and `latent` (schema names), view by view.

        `concept` [p of `latent`]: the concept of each latent region, if it is to be known.
        """
        owner = np.concatenate([_owners(seen["local_offsets"]), _owners(latent["local_offsets"])])
        region = np.concatenate([seen["local_region"].astype(int), latent["local_region"].astype(int) + num_seen])
        order = np.lexsort((region, owner))
        counts = np.bincount(owner, minlength=len(ids))
        return cls(
            ids,
            seen["global"],
            latent["cells"],
            np.concatenate([seen["local"], latent["local"]])[order],
            region[order],
            np.concatenate([[0], np.cumsum(counts)]),
            seen["labels_crc"],
            seen["photo_crc"],
            None if concept is None else np.concatenate([np.full(len(seen["local"]), -1), concept])[order],
        )


def _rows(cache: CachedTokens | None) -> dict[str, int]:
    """Name of each view -> its row."""
    return {view: row for row, view in enumerate(cache.ids)} if cache else {}


def _owners(offsets: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


@dataclass(frozen=True)
class Regions:
    """The R regions of a batch's B images, image by image; each has a pixel in its image's Y_p.

    `image` [R] 0..B-1, `id` [R] in Y_p (seen class, or K_s + latent id; no pair twice), `slot` [R] place among
    those of its image, `concept` [R] of a latent region (-1: unknown, or a seen one): int64. `ids`: the same ids by
    image, on the host: whatever decides a shape is read from there, so that a step never waits for its device.
    """

    image: Tensor
    id: Tensor
    slot: Tensor
    concept: Tensor
    ids: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], concepts: Sequence[int] | None = None) -> Regions:
        """From the ids of each image's regions, and the concepts of all of them in a row if known, on the CPU."""
        own = tuple(tuple(int(r) for r in image) for image in ids)
        flat = [(b, r, s) for b, image in enumerate(own) for s, r in enumerate(image)]
        image, region, slot = torch.tensor(flat, dtype=torch.int64).reshape(-1, 3).T.contiguous()
        concept = torch.full((len(flat),), -1) if concepts is None else torch.tensor(concepts, dtype=torch.int64)
        return cls(image, region, slot, concept, own)

    def __len__(self) -> int:
        return len(self.id)

    @property
    def most(self) -> int:
        """Regions of the image that has most."""
        return max(map(len, self.ids), default=0)

    def latent(self, num_seen: int) -> int:
        """The largest latent id + 1; 0 where there is no latent region."""
        return max(0, 1 + max((r for image in self.ids for r in image), default=-1) - num_seen)

    def rows(self, first: int, last: int) -> slice:
        """The rows of the regions of images `first` .. `last` - 1."""
        start = sum(map(len, self.ids[:first]))
        return slice(start, start + sum(map(len, self.ids[first:last])))

    def part(self, first: int, last: int) -> Regions:
        """The regions of images `first` .. `last` - 1."""
        own = self.rows(first, last)
        ids = self.ids[first:last]
        return Regions(self.image[own] - first, self.id[own], self.slot[own], self.concept[own], ids)


@dataclass(frozen=True)
class Batch:
    """One step's input. `images` uint8 [B, 3, S, S], and what `distortion` float32 [B, 5] will do to them ([B, 0]:
    nothing); `masks` Y_p uint8 [B, S, S]; `tokens` C_g [B, D]; `local` C_l [R, D] of the `regions`. Without a cache
    (the baseline of Table 3) D is 0 and R is 0.
    """

    images: Tensor
    distortion: Tensor
    masks: Tensor
    tokens: Tensor
    local: Tensor
    regions: Regions
    labelled: tuple[bool, ...] = ()
    """Whether each photo's mask was read; (): all were."""
    withheld: Tensor | None = None
    """bool [B, K_s]: the seen classes of which each photo's mask says nothing but where it names another; None: of no
    photo."""
    pseudo: Tensor | None = None
    """Pseudo labels uint8 [B, S, S] of the photos whose masks were not, 255 = none; None where they are not read."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; tokens as float32. Waits for nothing where it was pinned."""
        moved = _each(self, lambda t: t.to(device, non_blocking=True))
        return replace(moved, tokens=moved.tokens.float(), local=moved.local.float())

    def student_input(self, layout: torch.memory_format = torch.channels_last) -> Tensor:
        """The images, distorted and normalised on the batch's device: float32 [B, 3, S, S], in memory as `layout`."""
        # One image fits a core's cache; a GPU is fastest with the whole batch.
        size = 1 if self.images.device.type == "cpu" else len(self.images)
        made = torch.empty(self.images.shape, device=self.images.device, memory_format=layout)
        for out, images, how in zip(*(t.split(size) for t in (made, self.images, self.distortion)), strict=True):
            out.copy_(normalised(distorted(images, how) if how.shape[1] else images))
        return made

    def pin_memory(self) -> Batch:
        """The same in pinned memory, which a GPU copies while it computes; torch's loader calls this."""
        return _each(self, Tensor.pin_memory)

    def part(self, i: int, parts: int) -> Batch:
        """Part i of the batch cut into `parts` equal parts."""
        size = len(self.images) // parts
        first, last = i * size, (i + 1) * size
        return Batch(
            self.images[first:last],
            self.distortion[first:last],
            self.masks[first:last],
            self.tokens[first:last],
            self.local[self.regions.rows(first, last)],
            self.regions.part(first, last),
            self.labelled[first:last],
            None if self.withheld is None else self.withheld[first:last],
            None if self.pseudo is None else self.pseudo[first:last],
        )


Fields = TypeVar("Fields", Batch, Regions)


def _each(of: Fields, change: Callable[[Tensor], Tensor]) -> Fields:
    """The batch with a function applied to each of its tensors."""
    made: dict[str, Any] = {}
    for field in fields(of):
        value = getattr(of, field.name)
        made[field.name] = _each(value, change) if isinstance(value, Regions) else value
        if isinstance(value, Tensor):
            made[field.name] = change(value)
    return replace(of, **made)


@dataclass(frozen=True)
class Sample:
    """One crop before batching: image uint8 [S, S, 3], its distortion float32 [5] or [0], mask Y_p uint8 [S, S],
    tokens, ids of the regions in Y_p, their concepts int64 [P]; whether its mask was read, and of which seen classes
    it says nothing, where that is a question; its pseudo labels uint8 [S, S], where those are read."""

    image: Array
    distortion: np.ndarray
    mask: Array
    tokens: np.ndarray
    local: np.ndarray
    regions: np.ndarray
    concepts: np.ndarray
    labelled: bool | None = None
    withheld: NDArray[np.bool_] | None = None
    pseudo: Array | None = None


class TrainingSet(TorchDataset[Sample]):
    """Item (image, epoch) -> Sample; `epoch` counts how often the image was drawn before.

    With whole-image tokens (views.count = 1) the student crops at random; with V views, epoch t trains on cached
    view t mod V, exactly as the teacher saw it. `cache` None: seen labels alone.
    """

    def __init__(
        self,
        data: Dataset,
        views: ViewsConfig,
        num_seen: int,
        cache: CachedTokens | None,
        *,
        seed: int,
        photometric: bool,
    ) -> None:
        self.data, self.views, self.num_seen = data, views, num_seen
        self.seed, self.photometric = seed, photometric
        self.cache, self.rows = cache, _rows(cache)
        index = {image_id: i for i, image_id in enumerate(data.ids)}
        named = dict.fromkeys(v.rpartition("#")[0] if views.count > 1 else v for v in self.rows)
        self.images = [index[i] for i in named if i in index] if cache else list(range(len(data)))
        if not self.images:
            raise InputError("no image of the data set is in the cache; run `clip2seg extract` for this data set")

    def with_tokens(self, cache: CachedTokens) -> TrainingSet:
        """The same images with these tokens, which may be those of some views alone."""
        other = copy(self)
        other.cache, other.rows = cache, _rows(cache)
        return other

    def __len__(self) -> int:
        return len(self.images)

    def labelled(self) -> NDArray[np.bool_]:
        """Whether each image's mask is read."""
        return np.array([self.data.records[i].id not in self.data.unlabelled for i in self.images])

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        position, epoch = item
        i = self.images[position]
        labels, image_id = self.data.labels(i, "seen"), self.data.records[i].id
        size = (labels.shape[0], labels.shape[1])
        exact = self.views.count > 1
        v, seed = (epoch % self.views.count, self.views.seed) if exact else (epoch, self.seed)
        view, mask = draw_labelled(self.views, seed, image_id, v, size, labels)
        row = self._row(i, image_id, v if exact else None, labels)
        local, regions, tokens = np.zeros((0, 0), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
        concepts = np.zeros(0, np.int64)
        pseudo = None
        labelled = image_id not in self.data.unlabelled if self.data.unlabelled else None
        if self.cache is not None and row is not None:
            cells = self.cache.cells[row]
            if exact:
                mask = pseudo_mask(mask, cells, self.num_seen)
                mask[~inside(view)] = IGNORE
            else:
                latent = apply_cells(latent_ids(cells, self.num_seen), size, view)
                np.copyto(mask, latent, where=mask == IGNORE)
            own = slice(self.cache.offsets[row], self.cache.offsets[row + 1])
            visible = byte_counts(mask)[self.cache.region[own]] > 0
            local, regions = self.cache.local[own][visible], self.cache.region[own][visible]
            tokens = self.cache.tokens[row]
            known = self.cache.concept
            concepts = np.full(len(regions), -1) if known is None else known[own][visible]
            if self.cache.pseudo is not None:
                pseudo = np.full(mask.shape, IGNORE, np.uint8)
                if labelled is False and exact:
                    pseudo = pseudo_mask(pseudo, self.cache.pseudo[row], 0)
                    pseudo[~inside(view)] = IGNORE
                elif labelled is False:
                    pseudo = apply_cells(self.cache.pseudo[row], size, view)
        distortion = np.zeros(0, np.float32)
        if self.photometric:
            distortion = draw_distortion(view_seed(self.seed + 1, image_id, epoch))
        image = apply_image(self.data.image(i, least_size(view)), view, size)
        withheld = None
        if self.data.withheld:
            withheld = np.zeros(self.num_seen, bool)
            withheld[list(self.data.hidden(image_id))] = True
        return Sample(image, distortion, mask, tokens, local, regions, concepts, labelled, withheld, pseudo)

    def _row(self, i: int, image_id: str, v: int | None, labels: Array) -> int | None:
        if self.cache is None:
            return None
        row = self.rows[image_id if v is None else f"{image_id}#{v}"]
        if zlib.crc32(labels.tobytes()) != self.cache.labels_crc[row]:
            raise InputError(
                f"{image_id}: its mask is not the one that was extracted; run `clip2seg extract`, which says what to "
                "remove"
            )
        self.data.check_photo(i, self.cache.photo_crc[row])
        return row


def collate(samples: list[Sample]) -> Batch:
    """Samples -> Batch."""
    return Batch(
        torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([s.distortion for s in samples])),
        torch.from_numpy(np.stack([s.mask for s in samples])),
        torch.from_numpy(np.stack([s.tokens for s in samples])),
        torch.from_numpy(np.concatenate([s.local for s in samples])),
        Regions.of([s.regions.tolist() for s in samples], np.concatenate([s.concepts for s in samples]).tolist()),
        tuple(s.labelled for s in samples if s.labelled is not None),
        _stacked([s.withheld for s in samples]),
        _stacked([s.pseudo for s in samples]),
    )


def _stacked(arrays: Sequence[NDArray[Any] | None]) -> Tensor | None:
    """Arrays that every sample has, or none."""
    there = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(there)) if there else None


class EpochBatchSampler:
    """The order of training: every image once in each epoch, in an order drawn from (seed, epoch).

    Yields the batches of iterations `start`..`stop` as lists of (image, epoch): a pure function of the seed and
    the iteration, so a resumed run goes on where it was. `rank` of `world` takes its share of each of the `parts`
    that a batch is cut into: part i of all processes together is part i of one process alone.

    `labelled` bool [images] and `per_batch`: so many of each batch, spread over it, are labelled images and the others
    are not; each kind has epochs of its own. 0: as they come.
    """

    def __init__(
        self,
        images: int,
        batch: int,
        start: int,
        stop: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        labelled: NDArray[np.bool_] | None = None,
        per_batch: int = 0,
    ) -> None:
        self.images, self.batch, self.start, self.stop, self.seed = images, batch, start, stop, seed
        self.rank, self.world, self.parts = rank, world, parts
        self.per_batch = per_batch
        apart = labelled if per_batch else None
        self._labelled = None if apart is None else np.flatnonzero(apart)
        self._others = np.arange(images) if apart is None else np.flatnonzero(~apart)
        self._orders: dict[tuple[int, ...], tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        part = self.batch // self.parts
        share = part // self.world
        for iteration in range(self.start, self.stop):
            firsts = (iteration * self.batch + i * part + self.rank * share for i in range(self.parts))
            yield [self._item(n) for first in firsts for n in range(first, first + share)]

    def _item(self, n: int) -> tuple[int, int]:
        if self._labelled is None:
            return self._drawn(n, self._others)
        batch, k = divmod(n, self.batch)
        before = k * self.per_batch // self.batch  # labelled ones ahead of it in its batch
        own = (k + 1) * self.per_batch // self.batch > before
        if own:
            return self._drawn(batch * self.per_batch + before, self._labelled, 1)
        return self._drawn(batch * (self.batch - self.per_batch) + k - before, self._others, 0)

    def _drawn(self, n: int, images: NDArray[np.int64], *kind: int) -> tuple[int, int]:
        """The n-th draw from `images`, each of which comes once an epoch; and which epoch of theirs that is."""
        epoch, place = divmod(n, len(images))
        if self._orders.get(kind, (-1,))[0] != epoch:
            order = np.random.default_rng([self.seed, epoch, *kind]).permutation(len(images))
            self._orders[kind] = epoch, images[order]
        return int(self._orders[kind][1][place]), epoch
