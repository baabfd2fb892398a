"""`clip2seg.open_cache`: what lies in the cache, by view and by array, and refusals in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cache.errors import InputError
from cache.location import Location
from pipeline.use.reader import CacheReader, open_cache

if TYPE_CHECKING:
    from tests.conftest import Tiny


@pytest.fixture
def mined(tiny: Tiny, tmp_path: Path) -> Path:
    """A folder with one artifact of each kind."""
    tiny.run("mine-latent")
    for kind in ("tokens", "dense", "latent", "text"):
        at = Path(str(tiny.plan().address(kind)))
        shutil.copytree(at, tmp_path / at.name)
    return tmp_path


def test_a_view_is_what_its_arrays_hold(mined: Path, tiny: Tiny) -> None:
    cache = open_cache(mined)
    assert cache.kinds == ("dense", "latent", "text", "tokens") and cache.ids() == list(tiny.plan().train_data.ids)
    tokens, latent = cache.arrays("tokens"), cache.arrays("latent", ["cells", "local", "local_offsets"])
    for row in (0, 5, 11):  # one of each shard
        view = cache.view(cache.ids()[row])
        own = slice(*tokens["local_offsets"][row : row + 2])
        assert np.array_equal(view["global"], tokens["global"][row])
        assert np.array_equal(view["local"], tokens["local"][own]) and len(view["local"]) == len(view["local_region"])
        mine = slice(*latent["local_offsets"][row : row + 2])
        assert np.array_equal(view["cells"], latent["cells"][row])
        assert np.array_equal(view["latent_local"], latent["local"][mine])
        assert np.array_equal(view["dense"], cache.arrays("dense")["dense"][row])


def test_summary_and_provenance_say_where_it_comes_from(mined: Path) -> None:
    cache = open_cache(str(mined))
    summary = cache.summary()
    assert summary["views"]["stored"] == summary["views"]["wanted"] == 12
    assert cache.provenance("latent")["stage"] == "mine-latent" and cache.provenance("latent")["preset"] == "tiny"


def test_one_artifact_can_be_opened_alone(mined: Path) -> None:
    (text,) = mined.glob("text-*.zarr")
    cache = open_cache(text)
    assert cache.kinds == ("text",) and cache.arrays("text")["seen"].shape == (2, 32)
    with pytest.raises(InputError, match="no artifact 'tokens' was opened"):
        cache.ids()


def test_what_is_not_there_is_refused_in_one_line(mined: Path, tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(InputError) as error:
            open_cache(path)
        return str(error.value)

    (tmp_path / "empty").mkdir()
    assert "no cache there" in refused(tmp_path / "empty") and "no cache there" in refused(tmp_path / "missing")
    (tmp_path / "tokens-00000000.zarr").mkdir()  # beside the real one
    assert "several of a kind" in refused(mined)
    assert "nothing there" in refused(mined / "tokens-00000000.zarr")
    (tokens,) = (f for f in mined.glob("tokens-*") if (f / "zarr.json").is_file())
    cache = open_cache(tokens)
    with pytest.raises(InputError, match="no array 'locals'"):
        cache.arrays("tokens", ["locals"])
    with pytest.raises(InputError, match="no view 'train99'"):
        cache.view("train99")


def test_a_damaged_byte_is_noticed(mined: Path, tmp_path: Path) -> None:
    (link,) = mined.glob("tokens-*")
    copy = tmp_path / "copy" / link.name
    shutil.copytree(link.resolve(), copy)
    (chunk,) = (f for f in (copy / "shards/00001/global/c").rglob("*") if f.is_file())
    data = bytearray(chunk.read_bytes())
    data[0] ^= 1
    chunk.write_bytes(data)
    cache = open_cache(copy)
    with pytest.raises(InputError, match="damaged"):
        cache.view(cache.ids()[5])


def test_reading_writes_nothing(mined: Path) -> None:
    def everything() -> dict[str, int]:
        return {str(f): f.stat().st_mtime_ns for d in mined.iterdir() for f in d.resolve().rglob("*")}

    before = everything()
    cache: CacheReader = open_cache(str(Location(str(mined))))
    cache.view(cache.ids()[0])
    cache.summary()
    assert everything() == before
