"""Claims about tokens on their way from the teacher to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from cache.errors import InputError
from stages.parts.data.views import ViewsConfig
from stages.parts.settings import ExtractConfig
from stages.parts.teacher.crops import TeacherViews, collate_views
from stages.parts.teacher.settings import TeacherConfig
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.tokens import encode, encode_crops, stored, to_pixels

if TYPE_CHECKING:
    from tests.conftest import Tiny


@pytest.fixture(scope="module")
def teacher(tiny: Tiny) -> Teacher:
    return load_teacher(TeacherConfig(model=f"local-dir:{tiny.teacher}", pretrained="", input_size=64))


@pytest.fixture(scope="module")
def views(tiny: Tiny, teacher: Teacher) -> list[Any]:
    rows = TeacherViews(tiny.plan().train_data, ViewsConfig(), teacher.input_size, teacher.crop_size)
    return [rows[i] for i in range(5)]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tokens_are_the_teachers_in_the_stored_precision(teacher: Teacher, views: list[Any], dtype: Any) -> None:
    found = encode(teacher, collate_views([*views]), ExtractConfig(dtype=dtype)).arrays()
    tokens, dense = teacher.encode_views(torch.stack([torch.tensor(v.image).permute(2, 0, 1) for v in views]))
    np.testing.assert_array_equal(found["global"], tokens.numpy().astype(dtype))
    np.testing.assert_array_equal(found["dense"], dense.numpy().astype(dtype))
    assert found["dense"].shape == (5, 8, 8, 32)
    regions = sum(len(v.regions) for v in views)
    assert found["local"].shape == (regions, 32) and found["local"].dtype == dtype


def test_local_tokens_follow_views_and_regions(teacher: Teacher, views: list[Any]) -> None:
    local = encode(teacher, collate_views([*views]), ExtractConfig(dtype="float32")).arrays()["local"]
    alone = [teacher.encode_crops(torch.tensor(c).permute(2, 0, 1)[None])[0].numpy() for v in views for c in v.crops]
    np.testing.assert_allclose(local, np.stack(alone), atol=1e-5)


def test_crops_go_in_passes_that_change_nothing_but_the_last_bits(teacher: Teacher, views: list[Any]) -> None:
    crops = np.concatenate([v.crops for v in views])
    assert len(crops) > 4
    once = encode_crops(teacher, crops, ExtractConfig(dtype="float32", batch=100))
    np.testing.assert_allclose(encode_crops(teacher, crops, ExtractConfig(dtype="float32", batch=2)), once, atol=1e-5)


def test_no_view_and_no_region_give_empty_arrays_of_the_right_shape(teacher: Teacher, views: list[Any]) -> None:
    empty = encode(teacher, collate_views([]), ExtractConfig()).arrays()
    assert {k: v.shape for k, v in empty.items()} == {"global": (0, 32), "dense": (0, 8, 8, 32), "local": (0, 32)}
    assert {v.dtype for v in empty.values()} == {np.dtype("float16")}
    assert encode_crops(teacher, views[0].crops[:0], ExtractConfig()).shape == (0, 32)


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (float("nan"), "float32", "weights are damaged"),
        (float("nan"), "float16", "weights are damaged"),
        (float("inf"), "float32", "weights are damaged"),
        (70_000.0, "float16", r"beyond what float16 can hold; set extract\.dtype=float32"),
    ],
)
def test_a_token_that_the_cache_can_not_hold_is_refused(value: float, dtype: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        stored(torch.tensor([[1.0, value]]), dtype)


@pytest.mark.parametrize("kind", ["global", "dense", "local"])
def test_the_photo_of_a_token_that_can_not_be_held_is_named(
    teacher: Teacher, views: list[Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, dense = teacher.encode_views(torch.zeros((5, 3, 64, 64), dtype=torch.uint8))
    local = torch.ones((sum(len(v.regions) for v in views), 32))
    {"global": tokens, "dense": dense, "local": local}[kind][-1] = 1e6
    monkeypatch.setattr(teacher, "encode_views", lambda _: (tokens, dense))
    monkeypatch.setattr(teacher, "encode_crops", lambda _: local)
    with pytest.raises(InputError, match=f"^{views[-1].id}: .*{kind} token beyond"):
        encode(teacher, collate_views([*views]), ExtractConfig(dtype="float16", batch=1000)).arrays()


def test_the_largest_float16_is_held() -> None:
    assert stored(torch.tensor([[65504.0, -65504.0]]), "float16").tolist() == [[65504.0, -65504.0]]


def test_pixels_are_channels_first() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    pixels = to_pixels(image)
    assert pixels.shape == (1, 3, 2, 4) and int(pixels[0, 2, 1, 3]) == image[0, 1, 3, 2]
