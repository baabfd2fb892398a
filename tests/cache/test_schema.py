"""Claims about the one table of the cache."""

from __future__ import annotations

import numpy as np
import pytest

from cache.errors import InputError
from cache.schema import ARTIFACTS, SCHEMA, TOKEN, check_shard, check_version

SIZES = {"n": 3, "p": 5, "h": 2, "w": 4, "D": 6, "C": 7, "K_s": 2, "K_u": 1, "K_c": 4, "2": 2, "n+1": 4}


def shard(kind: str, token: str = "float16") -> dict[str, np.ndarray]:
    """Arrays of the shapes of the table."""
    return {
        name: np.zeros([SIZES[d] for d in spec.dims], token if spec.dtype == TOKEN else spec.dtype)
        for name, spec in ARTIFACTS[kind].items()
    }


@pytest.mark.parametrize("kind", ARTIFACTS)
@pytest.mark.parametrize("token", ["float16", "float32"])
def test_arrays_of_the_tables_shapes_pass(kind: str, token: str) -> None:
    check_shard(kind, shard(kind, token), token)


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, table in ARTIFACTS.items() for n in table])
def test_each_array_is_held_to_its_type_rank_and_presence(kind: str, name: str) -> None:
    arrays = shard(kind)
    for wrong in (arrays[name].astype("float64"), arrays[name][None]):
        with pytest.raises(ValueError, match=f"{kind}/{name}"):
            check_shard(kind, arrays | {name: wrong}, "float16")
    with pytest.raises(ValueError, match="wanted"):
        check_shard(kind, {k: v for k, v in arrays.items() if k != name}, "float16")
    with pytest.raises(ValueError, match="wanted"):
        check_shard(kind, arrays | {"extra": arrays[name]}, "float16")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tokens", "local_offsets"), ("tokens", "global"), ("tokens", "local_region"), ("latent", "cells")],
)
def test_axes_of_one_symbol_have_one_size(kind: str, name: str) -> None:
    arrays = shard(kind)
    with pytest.raises(ValueError, match="axis"):
        check_shard(kind, arrays | {name: np.concatenate([arrays[name]] * 2)}, "float16")


def test_image_size_has_two_columns() -> None:
    with pytest.raises(ValueError, match="image_size: axis 2"):
        check_shard("tokens", shard("tokens") | {"image_size": np.zeros((3, 3), np.int32)}, "float16")


def test_every_array_says_what_it_is_and_offsets_belong_to_ragged_ones() -> None:
    for table in ARTIFACTS.values():
        for name, spec in table.items():
            assert spec.about
            assert name.endswith("_offsets") == (spec.dims == ("n+1",))


def test_another_schema_version_is_refused_with_the_command_that_rebuilds_it() -> None:
    check_version("cache", SCHEMA, "clip2seg extract voc")
    for version in (SCHEMA + 1, SCHEMA - 1, None, str(SCHEMA)):
        with pytest.raises(InputError, match="run `clip2seg extract voc`"):
            check_version("cache", version, "clip2seg extract voc")
