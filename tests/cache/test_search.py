"""Claims about search: what is found equals brute force, and the index follows the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from cache.location import Location
from cache.search import FILES, Hit, open_index
from cache.store import Artifact

K_S = 3


def make_cache(
    at: Path | str, *, views: int = 9, shard: int = 4, dim: int = 8, seed: int = 0, copies: bool = False
) -> tuple[Artifact, Artifact]:
    """Artifacts tokens and latent with random tokens: view i has i % 3 seen and (i + 1) % 3 latent regions."""
    random = np.random.default_rng(seed)
    root = Location(str(at))
    provenance = {"stage": "extract", "dtype": "float16", "seen": list("abcdefgh")}
    tokens = Artifact(root.child("tokens.zarr"), "tokens").create(provenance)
    latent = Artifact(root.child("latent.zarr"), "latent").create(provenance)
    for s, start in enumerate(range(0, views, shard)):
        rows = range(start, min(start + shard, views))
        ids = [f"view{i}" for i in rows]
        n = len(ids)
        seen, mined = [i % 3 for i in rows], [(i + 1) % 3 for i in rows]
        whole = random.normal(size=(n, dim)).astype(np.float16)
        if copies:
            whole[:] = whole[0]
        arrays = {
            "global": whole,
            "image_size": np.ones((n, 2), np.int32),
            "view_seed": np.zeros(n, np.uint64),
            "labels_crc": np.zeros(n, np.uint32),
            "photo_crc": np.zeros(n, np.uint32),
        }
        tokens.write(s, ids, arrays | regions(random, seen, dim), {"bad": []})
        cells = {"cells": np.zeros((n, 2, 2), np.uint8)}
        stats = {"classes": mined, "unannotated_cells": 4 * n, "covered_cells": 3 * n, "faiss_seconds": 0.0}
        latent.write(s, ids, cells | regions(random, mined, dim), stats)
    return tokens, latent


def regions(random: np.random.Generator, counts: list[int], dim: int) -> dict[str, np.ndarray]:
    return {
        "local": random.normal(size=(sum(counts), dim)).astype(np.float16),
        "local_region": np.array([r for n in counts for r in range(n)], np.uint8),
        "local_offsets": np.cumsum([0, *counts], dtype=np.int64),
    }


def brute_force(tokens: Artifact, latent: Artifact, query: np.ndarray) -> list[Hit]:
    """All local tokens by cosine in float64, read shard by shard with plain loops."""
    found = []
    for artifact, shift in ((tokens, 0), (latent, K_S)):
        for shard in artifact.committed():
            arrays, ids = artifact.read(shard), artifact.shard_ids(shard)
            for i, name in enumerate(ids):
                for j in range(arrays["local_offsets"][i], arrays["local_offsets"][i + 1]):
                    token = arrays["local"][j].astype(np.float64)
                    cosine = token @ query / np.linalg.norm(token) / np.linalg.norm(query)
                    found.append(Hit(name, int(arrays["local_region"][j]) + shift, float(cosine)))
    return sorted(found, key=lambda h: -h.cosine)


def test_search_equals_brute_force_over_all_shards(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path)
    index = open_index(Location(str(tmp_path / "index")), tokens, latent, K_S)
    for seed in range(5):
        query = np.random.default_rng(100 + seed).normal(size=8)
        found, true = index.find(query.astype(np.float32), 6), brute_force(tokens, latent, query)[:6]
        assert [(h.view, h.region) for h in found] == [(h.view, h.region) for h in true]
        np.testing.assert_allclose([h.cosine for h in found], [h.cosine for h in true], atol=1e-5)


def test_global_tokens_are_searched_apart_from_regions(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path)
    index = open_index(Location(str(tmp_path / "index")), tokens, latent, K_S)
    whole = tokens.load(["global"])["global"].astype(np.float32)
    found = index.find(whole[7] * 3, 3, among="global")
    assert (found[0].view, found[0].region) == ("view7", -1) and found[0].cosine == pytest.approx(1, abs=1e-5)
    assert len(index.find(whole[7], 100, among="global")) == 9


def test_neighbours_of_a_region_leave_the_region_itself_out(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path)
    index = open_index(Location(str(tmp_path / "index")), tokens, latent, K_S)
    vector = index.vector("view4", K_S + 1)
    assert index.find(vector, 1)[0] == Hit("view4", K_S + 1, pytest.approx(1, abs=1e-5))  # type: ignore[arg-type]
    others = index.find(vector, 4, skip=("view4", K_S + 1))
    assert [(h.view, h.region) for h in others] == [(h.view, h.region) for h in index.find(vector, 5)[1:]]


def test_the_index_is_kept_and_rebuilt_only_when_the_cache_changed(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path / "a")
    at = Location(str(tmp_path / "index"))
    assert open_index(at, tokens, latent, K_S).rebuilt
    again = open_index(at, tokens, latent, K_S)
    assert not again.rebuilt
    other, other_latent = make_cache(tmp_path / "b", seed=1)
    changed = open_index(at, other, other_latent, K_S)
    assert changed.rebuilt
    query = np.ones(8)
    assert [h.view for h in changed.find(query, 5)] == [h.view for h in brute_force(other, other_latent, query)[:5]]
    assert not open_index(at, other, other_latent, K_S).rebuilt


def test_an_index_that_lost_a_file_is_rebuilt(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path / "a")
    at = Location(str(tmp_path / "index"))
    open_index(at, tokens, latent, K_S)
    (tmp_path / "index/local.faiss").unlink()
    assert open_index(at, tokens, latent, K_S).rebuilt


def test_an_index_with_a_changed_byte_is_rebuilt_and_finds_what_it_should(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path / "a")
    at = Location(str(tmp_path / "index"))
    wanted = open_index(at, tokens, latent, K_S).find(np.ones(8), 3)
    for name in FILES:
        file = tmp_path / "index" / name
        data = bytearray(file.read_bytes())
        data[-1] ^= 0x40
        file.write_bytes(data)
        found = open_index(at, tokens, latent, K_S)
        assert found.rebuilt and found.find(np.ones(8), 3) == wanted, name


def test_search_works_before_mining_and_on_an_object_store(tmp_path: Path) -> None:
    tokens, latent = make_cache(f"file://{tmp_path}")
    at = Location(f"file://{tmp_path}").child("index")
    assert at.path is None  # an address with :// goes the way of s3://
    index = open_index(at, tokens, None, K_S)
    assert len(index.regions) == 9 and index.regions[:, 1].max() < K_S
    assert not open_index(at, tokens, None, K_S).rebuilt
    assert open_index(at, tokens, latent, K_S).rebuilt


def test_near_views_leave_each_view_out_even_among_exact_copies(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path, views=4, copies=True)
    index = open_index(Location(str(tmp_path / "index")), tokens, latent, K_S)
    cosine, near = index.near_views(2)
    assert cosine.shape == near.shape == (4, 2)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)
    assert not (near == np.arange(4)[:, None]).any()


def test_an_unknown_view_or_region_is_refused_by_name(tmp_path: Path) -> None:
    tokens, latent = make_cache(tmp_path)
    index = open_index(Location(str(tmp_path / "index")), tokens, latent, K_S)
    with pytest.raises(InputError, match="nowhere: no such view"):
        index.vector("nowhere", -1)
    with pytest.raises(InputError, match="view0: has no region 2"):
        index.vector("view0", 2)
