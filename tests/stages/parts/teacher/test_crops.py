"""Claims about what the teacher is shown."""

from __future__ import annotations

import pickle
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cache.settings import IGNORE
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import present_regions, region_crops
from stages.parts.data.views import ViewsConfig, apply_image, apply_labels, draw, whole
from stages.parts.teacher.crops import BadView, TeacherViews

if TYPE_CHECKING:
    from tests.conftest import Tiny


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return tiny.plan().train_data


def test_one_view_is_the_whole_image_and_all_its_seen_regions(data: Dataset) -> None:
    rows = TeacherViews(data, ViewsConfig(), 32, 16)
    assert len(rows) == len(data)
    for row in (0, 5):
        view: Any = rows[row]
        image, labels = data.image(row), data.labels(row, "seen")
        np.testing.assert_array_equal(view.image, whole(image, 32))
        np.testing.assert_array_equal(view.labels, labels)
        assert view.regions == present_regions(labels) and set(view.regions) <= {0, 1}
        np.testing.assert_array_equal(view.crops, region_crops(image, labels, view.regions, 16))
        assert (view.row, view.id, view.image_size, view.view_seed) == (row, data.ids[row], labels.shape, 0)
        assert view.labels_crc == zlib.crc32(labels.tobytes())


def test_rows_run_over_the_views_of_each_image(data: Dataset) -> None:
    views = ViewsConfig(count=3, size=48, seed=4)
    rows = TeacherViews(data, views, 48, 16)
    assert len(rows) == 3 * len(data)
    for row in (0, 4, 35):
        i, v = divmod(row, 3)
        shown: Any = rows[row]
        labels = data.labels(i, "seen")
        view = draw(views, 4, data.ids[i], v, labels.shape, labels)
        assert shown.id == f"{data.ids[i]}#{v}" and shown.view_seed == view.seed
        np.testing.assert_array_equal(shown.image, apply_image(data.image(i), view))  # 48 px: nothing is resized
        np.testing.assert_array_equal(shown.labels, apply_labels(labels, view))
        assert shown.labels_crc == zlib.crc32(labels.tobytes())  # of the whole image, whatever the view shows


def test_a_region_hidden_by_the_view_is_not_shown(data: Dataset) -> None:
    rows = TeacherViews(data, ViewsConfig(count=6, size=24), 32, 16)
    counts = set()
    for row in range(24):
        view: Any = rows[row]
        assert view.regions == present_regions(view.labels) and len(view.crops) == len(view.regions)
        counts.add(len(view.regions))
    assert 0 in counts and view.crops.shape[1:] == (16, 16, 3)


def test_unseen_labels_reach_the_teacher_in_no_form(fresh_tiny: Tiny) -> None:
    data = fresh_tiny.plan().train_data
    before: list[Any] = [TeacherViews(data, ViewsConfig(count=2, size=40), 32, 16)[row] for row in range(8)]
    for record in data.records:
        mask = np.array(Image.open(record.mask))
        mask[np.isin(mask, [0, 2, 4, IGNORE])] = 4
        Image.fromarray(mask).save(record.mask)
    after: list[Any] = [TeacherViews(data, ViewsConfig(count=2, size=40), 32, 16)[row] for row in range(8)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.crops, b.crops)
        assert (a.labels_crc, a.regions) == (b.labels_crc, b.regions)


def test_a_bad_image_comes_back_as_a_bad_view_that_can_cross_processes(fresh_tiny: Tiny) -> None:
    data = fresh_tiny.plan().train_data
    data.records[2].image.write_bytes(b"")
    bad: Any = pickle.loads(pickle.dumps(TeacherViews(data, ViewsConfig(), 32, 16)[2]))  # noqa: S301 - our own bytes
    assert isinstance(bad, BadView) and bad.row == 2
    assert "train02.jpg: can't be decoded (empty file)" in str(bad.error) and "\n" not in str(bad.error)
