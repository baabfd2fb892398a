"""What a data loader's worker prepares for the teacher: one view, and one crop for each of its regions."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from cache.errors import InputError
from stages.parts.data.datasets import BadSample, Dataset
from stages.parts.data.regions import present_regions, region_crops
from stages.parts.data.views import (
    Array,
    View,
    ViewsConfig,
    apply_image,
    draw_labelled,
    least_size,
    view_seed,
    whole,
)


class Known(NamedTuple):
    """Where an earlier cache holds a view, and of what photo and seen labels it was made.

    `labels_crc` None: of other labels or seen classes, so that its map and global token are of use, its regions not.
    """

    source: int
    shard: int
    row: int
    photo_crc: int
    labels_crc: int | None


@dataclass(frozen=True)
class TeacherView:
    """One view as the teacher takes it. `image` uint8 [S, S, 3]; `crops` uint8 [P, s, s, 3] of `regions`.

    `known`: an earlier cache holds its map and global token, and `image` is empty; where it holds the regions' tokens
    too, `crops` and `regions` are.
    """

    row: int
    id: str
    image: Array
    labels: Array
    crops: Array
    regions: list[int]
    image_size: tuple[int, int]
    view_seed: int
    labels_crc: int
    photo_crc: int
    known: Known | None = None


@dataclass(frozen=True)
class BadView:
    """A view that can't be made, and why."""

    row: int
    error: BadSample


@dataclass(frozen=True)
class TeacherBatch:
    """A collated batch of views; a loader worker hands it over in shared memory, without a copy.

    `images` uint8 [n, 3, S, S] of the good ones that are not known, `crops` uint8 [p, 3, s, s]; `views` good and bad,
    in order, without their pixels.
    """

    images: Tensor
    crops: Tensor
    views: list[TeacherView | BadView]

    @property
    def good(self) -> list[TeacherView]:
        """The views that could be made."""
        return [v for v in self.views if isinstance(v, TeacherView)]

    def pin_memory(self) -> TeacherBatch:
        """The same in memory from which a GPU copies while it computes; torch's loader calls this."""
        return replace(self, images=self.images.pin_memory(), crops=self.crops.pin_memory())


_NOTHING = np.zeros((0, 0), np.uint8)
_NO_PICTURE = np.zeros((0, 0, 3), np.uint8)
_NO_CROP = np.zeros((0, 0, 0, 3), np.uint8)


def collate_views(views: list[TeacherView | BadView]) -> TeacherBatch:
    """Views -> TeacherBatch."""
    good = [v for v in views if isinstance(v, TeacherView)]
    images = [v.image for v in good if v.known is None]
    crops = [v.crops for v in good if len(v.crops)]
    bare = [
        replace(v, image=_NOTHING, labels=_NOTHING, crops=_NOTHING) if isinstance(v, TeacherView) else v for v in views
    ]
    return TeacherBatch(
        torch.from_numpy(np.stack(images) if images else _NO_CROP).permute(0, 3, 1, 2),
        torch.from_numpy(np.concatenate(crops) if crops else _NO_CROP).permute(0, 3, 1, 2),
        bare,
    )


def view_id(image_id: str, v: int, count: int) -> str:
    """Id of a view in the cache: the image's id, with the view's number where there are several."""
    return image_id if count == 1 else f"{image_id}#{v}"


def view_row(view: str, index: Mapping[str, int], count: int) -> int:
    """The cache's row (image * V + view) of a view's name; `index`: image id -> place in the data set's list.

    Raises InputError for an image that the data set does not list.
    """
    image_id, _, v = view.rpartition("#") if count > 1 else (view, "", "0")
    if image_id not in index:
        raise InputError(f"{view}: in the cache, but not in the data set's list; run `clip2seg extract` for this list")
    return index[image_id] * count + int(v)


def cached_view(views: ViewsConfig, data: Dataset, i: int, v: int, labels: Array) -> tuple[Array, Array, View | None]:
    """View `v` of image `i` as it is cached; `labels`: the image's seen ones, uint8 [H, W].

    Returns image uint8, labels uint8 (padding 255), and the view's geometry (None: all of it). Raises BadSample.
    """
    if views.count == 1:
        return data.image(i), labels, None
    size = (labels.shape[0], labels.shape[1])
    view, shown = draw_labelled(views, views.seed, data.records[i].id, v, size, labels)
    return apply_image(data.image(i, least_size(view)), view, size), shown, view


class TeacherViews(TorchDataset["TeacherView | BadView"]):
    """Rows of the cache: row = image * V + view; the regions are the seen classes.

    `input_size`, `crop_size` [pixels]: the teacher's square inputs. `known`: view id -> where earlier caches hold it.
    Reads seen labels only.
    """

    def __init__(
        self,
        data: Dataset,
        views: ViewsConfig,
        input_size: int,
        crop_size: int,
        known: Mapping[str, Sequence[Known]] | None = None,
    ) -> None:
        self.data, self.views, self.input_size, self.crop_size = data, views, input_size, crop_size
        self.known = known or {}

    def __len__(self) -> int:
        return len(self.data) * self.views.count

    def __getitem__(self, row: int) -> TeacherView | BadView:
        i, v = divmod(row, self.views.count)
        try:
            labels, photo_crc = self.data.labels(i, "seen"), self.data.photo_crc(i)
            image_id, labels_crc = self.data.records[i].id, zlib.crc32(labels.tobytes())
            made = TeacherView(
                row=row,
                id=view_id(image_id, v, self.views.count),
                image=_NO_PICTURE,
                labels=labels,
                crops=_NO_CROP,
                regions=[],
                image_size=(labels.shape[0], labels.shape[1]),
                view_seed=view_seed(self.views.seed, image_id, v) if self.views.count > 1 else 0,
                labels_crc=labels_crc,
                photo_crc=photo_crc,
            )
            fitting = [k for k in self.known.get(made.id, ()) if k.photo_crc == photo_crc]
            if (whole_view := next((k for k in fitting if k.labels_crc == labels_crc), None)) is not None:
                return replace(made, known=whole_view)
            # A crop is drawn by the labels; of a whole image they change the regions alone.
            known = fitting[0]._replace(labels_crc=None) if fitting and self.views.count == 1 else None
            seen_image, seen_labels, _ = cached_view(self.views, self.data, i, v, labels)
        except BadSample as error:
            return BadView(row, error)
        regions = present_regions(seen_labels)
        return replace(
            made,
            image=_NO_PICTURE if known else whole(seen_image, self.input_size),
            labels=seen_labels,
            crops=region_crops(seen_image, seen_labels, regions, self.crop_size),
            regions=regions,
            known=known,
        )
