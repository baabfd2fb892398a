from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cache.errors import InputError
from stages.parts.settings import AffinityConfig, RefineConfig
from stages.parts.students.backbone import load_backbone, reduced
from stages.parts.teacher.refine import Refiner, on_grid


def maps(seed: int = 0, grid: tuple[int, int] = (3, 4), dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 1.0, (*grid, dim)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_nothing_asked_for_changes_no_bit() -> None:
    dense = maps().astype(np.float16)
    refiner = Refiner()
    assert np.array_equal(refiner.stored(dense), dense.astype(np.float32))
    assert np.array_equal(refiner.cells(dense), dense.astype(np.float32)) and not refiner.needs_features


def test_pooling_by_own_tokens_by_hand() -> None:
    dense, rows = maps(), maps().reshape(-1, 6).astype(np.float64)
    got = Refiner(RefineConfig(affinity="tokens", threshold=0.2)).stored(dense)
    cosine = unit(rows) @ unit(rows).T
    for i in range(len(rows)):
        weight = [c if c > 0.2 else 0.0 for c in cosine[i]]
        wanted = sum(w * row for w, row in zip(weight, rows, strict=True)) / sum(weight)
        np.testing.assert_allclose(got.reshape(-1, 6)[i], wanted, rtol=1e-4, atol=1e-5)


def test_proxyclips_form_by_hand() -> None:
    dense, other = maps(), maps(1, dim=5)
    refiner = Refiner(RefineConfig(affinity="network", form="softmax"))
    rows, own = dense.reshape(-1, 6).astype(np.float64), unit(other.reshape(-1, 5).astype(np.float64))
    cosine = own @ own.T
    got = refiner.stored(dense, other).reshape(-1, 6)
    assert refiner.needs_features
    for i in range(len(rows)):
        logits = [3 * (c - 1.2 * cosine.mean()) for c in cosine[i]]
        weight = [math.exp(x) if x >= 0 else 0.0 for x in logits]
        wanted = sum(w * row for w, row in zip(weight, rows, strict=True)) / sum(weight)
        np.testing.assert_allclose(got[i], wanted, rtol=1e-4, atol=1e-5)


def test_an_outlier_becomes_the_mean_of_its_neighbours() -> None:
    smooth = np.linspace(0, 1, 144, dtype=np.float32).reshape(12, 12, 1) * np.ones(4, np.float32)
    dense = smooth.copy()
    dense[2, 2] = (50, -40, 30, 60)
    got = Refiner(RefineConfig(outliers=True)).stored(dense)
    np.testing.assert_allclose(got[2, 2], smooth[2, 2], atol=0.2)


def test_the_cosine_of_two_cells_is_the_weighted_mean_of_both_networks() -> None:
    dense, other = maps(), maps(1, dim=5)
    joined = Refiner(affinity=AffinityConfig(encoder="mobilenet_v2", kmeans_weight=0.3)).cells(dense, other)
    assert joined.shape == (3, 4, 11)
    a, b, c = (unit(m.reshape(12, -1)) for m in (joined, dense, other))
    np.testing.assert_allclose(a @ a.T, 0.7 * b @ b.T + 0.3 * c @ c.T, atol=1e-5)


def test_some_cells_alone_are_those_of_the_whole_map() -> None:
    dense, other = maps().astype(np.float16), maps(1, dim=5)
    only = np.zeros((3, 4), bool)
    only[0, 1] = only[2] = True
    weighted = Refiner(affinity=AffinityConfig(encoder="mobilenet_v2", kmeans_weight=0.3))
    for refiner in (Refiner(), Refiner(RefineConfig(outliers=True)), weighted):
        some = refiner.cells(dense, other, only)
        assert some.dtype == np.float32 and np.array_equal(some, refiner.cells(dense, other)[only])


def test_features_of_another_grid_are_brought_to_the_teachers() -> None:
    coarse = torch.zeros((1, 2, 2, 2))
    coarse[:, :, 0, 0], coarse[:, :, 1, 1] = 1, 3
    fine = on_grid(coarse, (2, 4))
    assert fine.shape == (1, 2, 4, 2)
    torch.testing.assert_close(fine.norm(dim=-1), torch.ones(1, 2, 4))
    torch.testing.assert_close(fine[0, 0, 0], torch.tensor([1.0, 0.0]))


def test_fewer_axes_keep_the_cosines_of_an_image_of_few() -> None:
    random = torch.Generator().manual_seed(0)
    few = torch.randn((2, 4, 4, 3), generator=random) @ torch.randn((3, 20), generator=random)
    kept = reduced(few, 5)
    assert kept.shape == (2, 4, 4, 5)
    for before, after in zip(few.flatten(1, 2), kept.flatten(1, 2), strict=True):
        torch.testing.assert_close(before @ before.T, after @ after.T, rtol=1e-3, atol=1e-3)
    assert reduced(few, 0) is few and reduced(few, 20) is few


@pytest.mark.parametrize(
    ("encoder", "stride", "shape"),
    [
        ("mobilenet_v2", 16, (2, 4, 4, 64)),
        ("mobilenet_v2", 8, (2, 8, 8, 32)),
        ("tu-mobilenetv3_small_050", 16, (2, 4, 4, 24)),
        ("tu-vit_tiny_patch16_224", 16, (2, 4, 4, 64)),
    ],
)
def test_networks_give_the_map_of_their_stride(encoder: str, stride: int, shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network = load_backbone(AffinityConfig(encoder=encoder, stride=stride))
    found = network(images)
    assert found.shape == shape and found.isfinite().all() and not network.training
    # The axes of an image are its own up to their signs: what must not depend on the batch is how alike its cells are.
    together, alone = (
        torch.nn.functional.normalize(f.flatten(0, 1), dim=1) for f in (found[0], network(images[:1])[0])
    )
    torch.testing.assert_close(together @ together.T, alone @ alone.T, rtol=0, atol=1e-3)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = load_backbone(AffinityConfig(encoder="mobilenet_v2"))
    save_file(first.encoder.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(4)
    again = load_backbone(AffinityConfig(encoder="mobilenet_v2", weights=str(tmp_path / "w.safetensors")))
    images = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    assert torch.equal(first(images), again(images))


@pytest.mark.parametrize("encoder", ["nobody", "tu-nobody", "tu-vit_nobody"])
def test_an_unknown_network_is_refused_in_one_line(encoder: str) -> None:
    with pytest.raises(InputError, match=r"affinity\.encoder") as caught:
        load_backbone(AffinityConfig(encoder=encoder))
    assert "\n" not in str(caught.value)
