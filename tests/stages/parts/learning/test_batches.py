"""Claims about what the student trains on: masks, tokens of what is visible, the order of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from cache.errors import InputError
from cache.settings import IGNORE
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import present_regions, pseudo_mask
from stages.parts.data.views import ViewsConfig, apply_labels, draw, inside
from stages.parts.learning.batches import (
    Batch,
    CachedTokens,
    EpochBatchSampler,
    Regions,
    TrainingSet,
    collate,
)
from stages.parts.students.inputs import IMAGENET_MEAN, IMAGENET_STD, normalised
from stages.parts.teacher.crops import TeacherViews, view_id

if TYPE_CHECKING:
    from tests.conftest import Tiny

D, GRID, SEEN = 4, (8, 8), 2


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return tiny.plan().train_data


def cached(data: Dataset, views: ViewsConfig, latent: int = 3) -> CachedTokens:
    """A cache whose values say where they come from: global = (row, ...), local = (row, region, ...)."""
    rows = TeacherViews(data, views, 16, 8)
    random = np.random.default_rng(3)
    ids, crc, photos, seen_region, seen_counts, cells = [], [], [], [], [], []
    for row in range(len(rows)):
        made: Any = rows[row]
        ids.append(made.id)
        crc.append(made.labels_crc)
        photos.append(made.photo_crc)
        seen_region += made.regions
        seen_counts.append(len(made.regions))
        cells.append(random.integers(0, latent, GRID, np.uint8))
    owner = np.repeat(np.arange(len(ids)), seen_counts)
    latent_owner = np.repeat(np.arange(len(ids)), latent)
    latent_region = np.tile(np.arange(latent, dtype=np.uint8), len(ids))

    def tokens(rows: np.ndarray, regions: np.ndarray) -> np.ndarray:
        return np.stack([rows, regions, rows, rows], axis=1).astype(np.float16)

    seen = {
        "global": np.repeat(np.arange(len(ids)), D).reshape(-1, D).astype(np.float16),
        "local": tokens(owner, np.array(seen_region)),
        "local_region": np.array(seen_region, np.uint8),
        "local_offsets": np.cumsum([0, *seen_counts]),
        "labels_crc": np.array(crc, np.uint32),
        "photo_crc": np.array(photos, np.uint32),
    }
    mined = {
        "cells": np.stack(cells),
        "local": tokens(latent_owner, latent_region + SEEN),
        "local_region": latent_region,
        "local_offsets": np.arange(len(ids) + 1) * latent,
    }
    return CachedTokens.joined(ids, seen, mined, SEEN)


def training(data: Dataset, views: ViewsConfig, *, seed: int = 0, photometric: bool = False) -> TrainingSet:
    return TrainingSet(data, views, SEEN, cached(data, views), seed=seed, photometric=photometric)


def test_seen_and_latent_tokens_are_joined_view_by_view_in_order_of_id() -> None:
    seen = {
        "global": np.zeros((3, 1)),
        "local": np.array([[10.0], [11], [30]]),
        "local_region": np.array([0, 4, 2], np.uint8),
        "local_offsets": np.array([0, 2, 2, 3]),
        "labels_crc": np.zeros(3, np.uint32),
        "photo_crc": np.zeros(3, np.uint32),
    }
    latent = {
        "cells": np.zeros((3, 1, 1), np.uint8),
        "local": np.array([[19.0], [28], [29]]),
        "local_region": np.array([0, 0, 1], np.uint8),
        "local_offsets": np.array([0, 1, 3, 3]),
    }
    joined = CachedTokens.joined(["a", "b", "c"], seen, latent, num_seen=5)
    assert joined.offsets.tolist() == [0, 3, 5, 6]
    assert joined.region.tolist() == [0, 4, 5, 5, 6, 2]
    assert joined.local[:, 0].tolist() == [10, 11, 19, 28, 29, 30] and joined.concept is None
    known = CachedTokens.joined(["a", "b", "c"], seen, latent, num_seen=5, concept=np.array([6, 7, 8]))
    assert known.concept is not None and known.concept.tolist() == [-1, -1, 6, 7, 8, -1]


@pytest.mark.parametrize("count", [1, 3])
def test_latent_ids_never_overwrite_annotated_pixels(data: Dataset, count: int) -> None:
    views = ViewsConfig(size=48, count=count)
    samples = training(data, views)
    for position in range(len(data)):
        for epoch in range(3):
            mask = samples[position, epoch].mask
            labels = data.labels(position, "seen")
            v, seed = (epoch % count, views.seed) if count > 1 else (epoch, 0)
            seen = apply_labels(labels, draw(views, seed, data.ids[position], v, labels.shape, labels))
            annotated = seen != IGNORE
            assert (mask[annotated] == seen[annotated]).all()
            assert (mask[~annotated] >= SEEN).all()


def test_unseen_classes_are_unlabelled_pixels_to_the_student(data: Dataset) -> None:
    views = ViewsConfig(size=48)
    bare = TrainingSet(data, views, SEEN, None, seed=0, photometric=False)
    ids = set[int]().union(*(np.unique(bare[i, t].mask).tolist() for i in range(len(data)) for t in range(3)))
    assert ids == {0, 1, IGNORE}  # disc and stripes; box and cross are 255


@pytest.mark.parametrize("count", [1, 3])
def test_the_tokens_of_a_sample_are_those_of_its_own_visible_regions(data: Dataset, count: int) -> None:
    samples = training(data, ViewsConfig(size=32, count=count))
    hidden = 0
    for position in range(len(data)):
        for epoch in range(4):
            sample = samples[position, epoch]
            row = position * count + (epoch % count if count > 1 else 0)
            assert sample.tokens.tolist() == [row] * D
            assert sample.local[:, 0].tolist() == [row] * len(sample.regions)
            assert sample.local[:, 1].tolist() == sample.regions.tolist()  # each region got its own token
            assert sample.regions.tolist() == present_regions(sample.mask)  # and every id of Y_p has one
            assert samples.cache is not None
            hidden += int(samples.cache.offsets[row + 1] - samples.cache.offsets[row]) - len(sample.regions)
    assert (hidden > 0) == (count == 1)  # a crop of the whole image may hide a region; a cached view is whole


def test_with_v_views_the_student_trains_on_the_views_that_the_teacher_saw(data: Dataset) -> None:
    views = ViewsConfig(size=48, count=3, seed=5)
    samples, seen = training(data, views, seed=9), TeacherViews(data, views, 48, 8)
    for position in (0, 7):
        for epoch in range(4):
            shown: Any = seen[position * 3 + epoch % 3]
            np.testing.assert_array_equal(samples[position, epoch].image, shown.image)
    np.testing.assert_array_equal(samples[0, 0].image, samples[0, 3].image)  # view t mod V


def test_padding_belongs_to_no_latent_class(data: Dataset) -> None:
    views = ViewsConfig(size=96, count=2, scale=(0.5, 0.6))  # the image is smaller than the crop
    samples = training(data, views)
    labels = data.labels(0)
    view = draw(views, views.seed, data.ids[0], 1, labels.shape, labels)
    assert not inside(view).all()
    assert (samples[0, 1].mask[~inside(view)] == IGNORE).all()


def test_whole_image_cells_are_cropped_with_the_pixels(data: Dataset) -> None:
    views = ViewsConfig(size=40)
    samples = training(data, views, seed=2)
    assert samples.cache is not None
    labels = data.labels(4)
    view = draw(views, 2, data.ids[4], 6, labels.shape, labels)
    wanted = apply_labels(pseudo_mask(labels, samples.cache.cells[4], SEEN), view)
    np.testing.assert_array_equal(samples[4, 6].mask, wanted)


def test_a_sample_is_a_function_of_seed_image_and_turn_alone(data: Dataset) -> None:
    views = ViewsConfig(size=40)
    one, other = training(data, views, photometric=True), training(data, views, photometric=True)
    first = one[3, 2]
    for noise in range(3):
        other[noise, noise]
    np.random.default_rng(0).random()
    again = other[3, 2]
    elsewhere = training(data, views, seed=1, photometric=True)[3, 2]
    for name in ("image", "distortion", "mask"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for name in ("image", "distortion"):
        assert not np.array_equal(getattr(first, name), getattr(one[3, 3], name))
        assert not np.array_equal(getattr(first, name), getattr(elsewhere, name))


def test_photometric_distortion_touches_what_the_student_sees_and_nothing_else(data: Dataset) -> None:
    views = ViewsConfig(size=40)
    plain, distorted = training(data, views), training(data, views, photometric=True)
    a, b = (collate([samples[1, epoch] for epoch in range(20)]) for samples in (plain, distorted))
    assert torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks) and a.distortion.shape == (20, 0)
    assert torch.equal(a.student_input(), normalised(a.images))
    differs = (a.student_input() - b.student_input()).abs().amax((1, 2, 3)) > 1e-3
    assert differs.sum() >= 14


def test_pixels_travel_as_bytes_and_are_normalised_where_the_batch_lies(data: Dataset) -> None:
    samples = training(data, ViewsConfig(size=40), photometric=True)
    batch = collate([samples[i, 0] for i in range(4)])
    assert batch.images.dtype == torch.uint8 and batch.student_input().dtype == torch.float32
    assert batch.student_input().is_contiguous(memory_format=torch.channels_last)
    parts = torch.cat([batch.part(i, 2).student_input() for i in range(2)])
    torch.testing.assert_close(parts, batch.student_input(), rtol=0, atol=1e-5)


def test_an_edited_mask_is_refused_before_it_is_trained_on(fresh_tiny: Tiny) -> None:
    from PIL import Image

    data = fresh_tiny.plan().train_data
    samples = training(data, ViewsConfig(size=40))
    samples[0, 0]
    mask = np.array(Image.open(data.records[0].mask))
    unseen = mask.copy()
    unseen[mask == 4], unseen[mask == 2] = 0, 255
    Image.fromarray(unseen).save(data.records[0].mask)
    samples[0, 0]  # unseen classes may be edited at will: training can't tell
    mask[5, 5] = 1 if mask[5, 5] != 1 else 3
    Image.fromarray(mask).save(data.records[0].mask)
    with pytest.raises(InputError, match="train00: its mask is not the one that was extracted"):
        samples[0, 0]


def test_another_photo_of_as_many_bytes_is_refused_before_it_is_trained_on(data: Dataset, tmp_path: Path) -> None:
    views = ViewsConfig(size=40)
    photo, whole = tmp_path / data.records[0].image.name, data.records[0].image.read_bytes()
    photo.write_bytes(whole[:14] + bytes([whole[14] ^ 1]) + whole[15:])  # as long, decoded alike, and not the same
    other = replace(data, records=[replace(data.records[0], image=photo), *data.records[1:]])
    samples = TrainingSet(other, views, SEEN, cached(data, views), seed=0, photometric=False)
    with pytest.raises(InputError, match=r"train00\.\w+: is not the photo that was extracted"):
        samples[0, 0]


def test_images_that_extract_set_aside_are_not_trained_on(data: Dataset) -> None:
    views = ViewsConfig(size=40)
    full = cached(data, views)
    some = CachedTokens(full.ids[3:], full.tokens[3:], full.cells[3:], full.local, full.region, full.offsets[3:],
                        full.labels_crc[3:], full.photo_crc[3:])  # fmt: skip
    samples = TrainingSet(data, views, SEEN, some, seed=0, photometric=False)
    assert samples.images == list(range(3, len(data)))
    assert samples[0, 0].tokens.tolist() == [3] * D


def test_a_cache_of_other_images_is_refused(data: Dataset) -> None:
    views = ViewsConfig(size=40)
    full = cached(data, views)
    foreign = CachedTokens(["x"], full.tokens[:1], full.cells[:1], full.local, full.region, full.offsets[:2],
                           full.labels_crc[:1], full.photo_crc[:1])  # fmt: skip
    with pytest.raises(InputError, match="no image of the data set is in the cache"):
        TrainingSet(data, views, SEEN, foreign, seed=0, photometric=False)


def test_a_batch_is_flat_over_regions_and_knows_their_images(data: Dataset) -> None:
    samples = training(data, ViewsConfig(size=40))
    items = [samples[i, 0] for i in (0, 5, 2)]
    batch = collate(items).to(torch.device("cpu"))
    assert batch.images.shape == (3, 3, 40, 40) and batch.masks.shape == (3, 40, 40)
    assert batch.tokens.dtype == batch.local.dtype == torch.float32
    regions = batch.regions
    assert regions.image.tolist() == [i for i, item in enumerate(items) for _ in item.regions]
    assert regions.id.tolist() == [int(r) for item in items for r in item.regions]
    assert regions.slot.tolist() == [s for item in items for s in range(len(item.regions))]
    assert regions.ids == tuple(tuple(item.regions.tolist()) for item in items)
    assert batch.local[:, 0].tolist() == [[0, 5, 2][i] for i in regions.image.tolist()]


def test_what_decides_a_shape_is_known_on_the_host() -> None:
    regions = Regions.of([[0, 1, 4], [], [3]])
    assert (len(regions), regions.most, regions.latent(3), regions.latent(9)) == (4, 3, 2, 0)
    assert Regions.of([[], []]).most == Regions.of([[]]).latent(2) == 0
    part = regions.part(1, 3)
    assert (part.image.tolist(), part.id.tolist(), part.slot.tolist(), part.ids) == ([1], [3], [0], ((), (3,)))


def test_the_parts_of_a_batch_are_the_batch(data: Dataset) -> None:
    samples = training(data, ViewsConfig(size=40))
    batch = collate([samples[i, 0] for i in range(4)])
    parts = [batch.part(i, 2) for i in range(2)]
    for name in ("images", "distortion", "masks", "tokens", "local"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name)), name
    joined = Regions.of(parts[0].regions.ids + parts[1].regions.ids)
    assert joined.ids == batch.regions.ids
    for name in ("image", "id", "slot"):
        assert torch.equal(getattr(joined, name), getattr(batch.regions, name)), name
        shift = 2 if name == "image" else 0
        both = [getattr(parts[0].regions, name), getattr(parts[1].regions, name) + shift]
        assert torch.equal(torch.cat(both), getattr(batch.regions, name)), name


def test_without_a_cache_a_batch_has_labels_alone(data: Dataset) -> None:
    samples = TrainingSet(data, ViewsConfig(size=40), SEEN, None, seed=0, photometric=False)
    batch = collate([samples[i, 0] for i in range(3)]).to(torch.device("cpu"))
    assert batch.tokens.shape == (3, 0) and batch.local.shape[0] == 0 and batch.regions.id.shape == (0,)
    assert isinstance(batch.part(0, 3), Batch)


def test_the_students_input_is_normalised_by_imagenets_numbers() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    wanted = [(v / 255 - m) / s for v, m, s in zip((0, 128, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert normalised(pixels).flatten().tolist() == pytest.approx(wanted, rel=1e-6)
    assert wanted[0] == pytest.approx(-2.117904)


# -- the order of training -------------------------------------------------------------------------------------


def test_every_image_comes_once_an_epoch() -> None:
    sampler = [item for batch in EpochBatchSampler(images=10, batch=4, start=0, stop=25, seed=3) for item in batch]
    assert len(sampler) == 100
    for epoch in range(10):
        part = sampler[10 * epoch : 10 * (epoch + 1)]
        assert sorted(image for image, _ in part) == list(range(10))
        assert {epoch for _, epoch in part} == {epoch}  # each image's turn counts how often it was drawn before
    assert sampler[:10] != [(i, 0) for i, _ in sampler[10:20]]


def test_the_order_is_a_pure_function_of_seed_and_iteration() -> None:
    whole = list(EpochBatchSampler(7, 3, 0, 20, seed=1))
    for start in (1, 6, 13):
        assert list(EpochBatchSampler(7, 3, start, 20, seed=1)) == whole[start:]
    assert list(EpochBatchSampler(7, 3, 0, 20, seed=1)) == whole
    assert list(EpochBatchSampler(7, 3, 0, 20, seed=2)) != whole
    assert len(EpochBatchSampler(7, 3, 5, 20, seed=1)) == 15


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    batch = next(iter(EpochBatchSampler(3, 8, 0, 1, seed=0)))
    assert sorted(batch[:3]) == [(0, 0), (1, 0), (2, 0)] and sorted(batch[3:6]) == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("per_batch", [1, 3, 8])
def test_so_many_of_each_batch_are_labelled_and_each_kind_has_epochs_of_its_own(per_batch: int) -> None:
    labelled = np.arange(20) % 5 == 0
    made = list(EpochBatchSampler(20, 8, 0, 40, seed=3, labelled=labelled, per_batch=per_batch))
    assert {sum(labelled[i] for i, _ in batch) for batch in made} == {per_batch}
    items = [item for batch in made for item in batch]
    for kind, size in ((labelled, 4), (~labelled, 16)):
        own = [item for item in items if kind[item[0]]]
        for epoch in range(len(own) // size):
            part = own[size * epoch :][:size]
            assert sorted(i for i, _ in part) == np.flatnonzero(kind).tolist() and {e for _, e in part} == {epoch}
    later = EpochBatchSampler(20, 8, 7, 40, seed=3, labelled=labelled, per_batch=per_batch)
    assert list(later) == made[7:]
    shares = [
        list(EpochBatchSampler(20, 8, 0, 40, seed=3, labelled=labelled, per_batch=per_batch, rank=r, world=2))
        for r in range(2)
    ]
    assert [one + two for one, two in zip(*shares, strict=True)] == made


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_each_batch_between_them(world: int) -> None:
    alone = list(EpochBatchSampler(10, 8, 3, 9, seed=5))
    shares = [list(EpochBatchSampler(10, 8, 3, 9, seed=5, rank=r, world=world)) for r in range(world)]
    assert [[item for part in parts for item in part] for parts in zip(*shares, strict=True)] == alone


def test_a_part_of_all_ranks_together_is_that_part_of_one_process() -> None:
    alone = list(EpochBatchSampler(20, 12, 0, 3, seed=5))
    shares = [list(EpochBatchSampler(20, 12, 0, 3, seed=5, rank=r, world=2, parts=3)) for r in range(2)]
    for batch, *pair in zip(alone, *shares, strict=True):
        for part in range(3):
            assert [item for share in pair for item in share[2 * part :][:2]] == batch[4 * part :][:4]


def test_view_names_tell_views_apart() -> None:
    assert view_id("a", 0, 1) == "a"
    assert [view_id("a#1", v, 2) for v in range(2)] == ["a#1#0", "a#1#1"]


def test_ids_with_a_hash_are_found_again(fresh_tiny: Tiny) -> None:
    """An id may hold the sign that separates id and view."""
    folder = Path(fresh_tiny.data)
    for place, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        (folder / place / f"train00{suffix}").rename(folder / place / f"train#0{suffix}")
    listing = folder / "ImageSets/Segmentation/train.txt"
    listing.write_text(listing.read_text().replace("train00", "train#0"))
    data = fresh_tiny.plan().train_data
    for count in (1, 2):
        samples = training(data, ViewsConfig(size=40, count=count))
        assert len(samples) == 12
        assert samples[0, 1].tokens.tolist() == [count - 1] * D
