"""Claims about the features of [affinity]: an earlier layer of the teacher, against loops over open_clip's blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import InputError
from stages.parts.settings import AffinityConfig, RefineConfig
from stages.parts.teacher.features import load_features
from stages.parts.teacher.refine import Refiner
from tests.stages.parts.teacher.test_recipes import GRID, TOWERS, Slow, close, images, teacher
from tests.stages.parts.teacher.test_teacher import write_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("t") / "vit", TOWERS["vit"])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_layer_is_what_leaves_that_block(folder: str, number: int) -> None:
    made, views = teacher(folder), images(2)
    features = load_features(AffinityConfig(layer=number, dim=0), made)
    assert features is not None
    found = features(views)
    for own, pixels in zip(found, views, strict=True):
        slow = Slow(teacher(folder)._views.visual, pixels)
        close(own.flatten(0, 1), torch.from_numpy(slow.layers[number][1:]))
    assert found.shape[1:3] == GRID and not found.requires_grad


def test_refinement_by_a_layer_by_hand(folder: str) -> None:
    made, view = teacher(folder, "value"), images(1)
    dense = made.encode_views(view)[1][0].numpy()
    features = load_features(AffinityConfig(layer=1, dim=0), made)
    assert features is not None
    got = Refiner(RefineConfig(affinity="network", threshold=0.4)).stored(dense, features(view)[0].numpy())
    own, rows = Slow(teacher(folder)._views.visual, view[0]).layers[1][1:], dense.reshape(-1, dense.shape[-1])
    for i, cell in enumerate(own):
        cosine = [float(cell @ other / np.linalg.norm(cell) / np.linalg.norm(other)) for other in own]
        weight = [c if c > 0.4 else 0.0 for c in cosine]
        wanted = sum(w * row for w, row in zip(weight, rows, strict=True)) / sum(weight)
        np.testing.assert_allclose(got.reshape(rows.shape)[i], wanted, rtol=1e-3, atol=1e-4)


def test_fewer_axes_keep_how_alike_the_cells_of_a_layer_are(folder: str) -> None:
    made, view = teacher(folder), images(1)
    every, few = (load_features(AffinityConfig(layer=2, dim=n), made) for n in (0, 16))
    assert every is not None and few is not None
    a, b = (torch.nn.functional.normalize(f(view)[0].flatten(0, 1), dim=1) for f in (every, few))
    assert b.shape[1] == 16 < a.shape[1]
    torch.testing.assert_close(a @ a.T, b @ b.T, rtol=0, atol=0.2)


def test_what_names_no_features_gives_none(folder: str) -> None:
    assert load_features(AffinityConfig(), teacher(folder)) is None


def test_a_layer_that_is_not_there_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"affinity.layer = 4: .* has 3 blocks; lower it"):
        load_features(AffinityConfig(layer=4), teacher(folder))
    with pytest.raises(ValueError, match="exclude each other"):
        AffinityConfig(encoder="mobilenet_v2", layer=1)
