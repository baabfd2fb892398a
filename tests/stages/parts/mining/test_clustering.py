"""Latent class mining against hand-worked numbers and slow float64 loops (method.md section 2)."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from threadpoolctl import threadpool_info, threadpool_limits

from cache.errors import InputError
from stages.parts.mining import clustering
from stages.parts.mining import clustering as mining
from stages.parts.mining.clustering import MAX_LATENT, MiningConfig, merge, mine, seeds, spherical_kmeans
from stages.parts.mining.miner import Miner


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_seeds(dense, unannotated, windows):
    """Eq. 1 cell by cell, float64."""
    h, w, dim = dense.shape
    found = []
    for o in windows:
        tall, wide, stride = min(o, h), min(o, w), max(round(o / 2), 1)
        ys = list(range(0, h - tall + 1, stride))
        xs = list(range(0, w - wide + 1, stride))
        ys += [h - tall] if ys[-1] != h - tall else []
        xs += [w - wide] if xs[-1] != w - wide else []
        for y in ys:
            for x in xs:
                total, any_free = np.zeros(dim), False
                for i in range(y, y + tall):
                    for j in range(x, x + wide):
                        if unannotated[i, j]:
                            total += dense[i, j].astype(np.float64)
                            any_free = True
                if any_free:
                    found.append(total / (tall * wide))
    return np.array(found)


def slow_merge(centroids, counts, threshold):
    """The greedy rounds, one pair at a time, float64; groups as sets of first centroids."""
    clusters = [([i], unit(c), n) for i, (c, n) in enumerate(zip(centroids, counts, strict=True))]
    while True:
        free, merged = list(range(len(clusters))), {}
        while True:
            best, pair = threshold, None
            for a in free:
                for b in free:
                    cosine = float(clusters[a][1] @ clusters[b][1])
                    if a < b and cosine > best:
                        best, pair = cosine, (a, b)
            if pair is None:
                break
            a, b = pair
            free = [f for f in free if f not in pair]
            total = clusters[a][2] + clusters[b][2]
            mean = (clusters[a][1] * clusters[a][2] + clusters[b][1] * clusters[b][2]) / total
            merged[a] = (clusters[a][0] + clusters[b][0], unit(mean), total)
        if not merged:
            return sorted(sorted(members) for members, _, _ in clusters)
        clusters = [merged.get(i, clusters[i]) for i in sorted([*free, *merged])]


def grouped(group):
    return sorted([i for i, g in enumerate(group) if g == name] for name in set(group))


def test_a_seed_is_the_window_mean_with_annotated_cells_as_zero():
    dense = np.array([[[4, 0], [0, 8]], [[100, 100], [4, 4]]], np.float32)
    unannotated = np.array([[True, True], [False, True]])
    # (4 + 0 + 0 + 4) / 4 and (0 + 8 + 0 + 4) / 4: divided by all four cells of the window.
    np.testing.assert_array_equal(seeds(dense[unannotated], unannotated, (2,)), [[2, 3]])


def test_windows_without_an_unannotated_cell_give_no_seed():
    dense = np.ones((4, 4, 3), np.float32)
    unannotated = np.zeros((4, 4), bool)
    unannotated[0, 0] = True
    # Of the nine 2x2 windows at stride 1 only the first holds the cell.
    np.testing.assert_array_equal(seeds(dense[unannotated], unannotated, (2,)), np.full((1, 3), 0.25))


@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (3, 5), (1, 1)])
@pytest.mark.parametrize("windows", [(2, 4), (3, 5), (1,), (16, 8)])
def test_seeds_equal_the_slow_reference(shape, windows):
    rng = np.random.default_rng(sum(shape) + sum(windows))
    dense = rng.normal(size=(*shape, 6)).astype(np.float32)
    unannotated = rng.random(shape) < 0.4
    unannotated[0, 0] = True
    slow = slow_seeds(dense, unannotated, windows)
    fast = seeds(dense[unannotated], unannotated, windows)
    slow = slow[np.sort(np.unique(slow, axis=0, return_index=True)[1])]
    fast = fast[np.sort(np.unique(fast, axis=0, return_index=True)[1])]
    np.testing.assert_allclose(fast, slow, atol=1e-6)


def test_the_default_windows_give_58_seeds_on_a_free_32_by_32_grid():
    dense = np.random.default_rng(0).normal(size=(32, 32, 2)).astype(np.float32)
    assert seeds(dense.reshape(-1, 2), np.ones((32, 32), bool), (8, 16)).shape == (7 * 7 + 3 * 3, 2)


def test_every_unannotated_cell_is_seen_by_a_seed_though_stride_and_grid_do_not_divide():
    for row, column in np.ndindex(7, 9):
        unannotated = np.zeros((7, 9), bool)
        unannotated[row, column] = True
        assert len(seeds(np.ones((1, 2), np.float32), unannotated, (4,))) >= 1


def test_windows_larger_than_the_grid_are_cut_to_it_and_count_once():
    dense = np.ones((4, 4, 2), np.float32)
    assert len(seeds(dense.reshape(-1, 2), np.ones((4, 4), bool), (8, 16))) == 1


def test_kmeans_uses_every_token_beyond_the_subsampling_limit_of_faiss():
    # faiss takes 256 points a centroid by default: the 10 tokens of the far end could all be left out.
    tokens = np.zeros((2000, 2), np.float32)
    tokens[:, 0] = 1
    tokens[-10:] = [0.6, 0.8]
    centroids, cluster = spherical_kmeans(tokens, np.array([[1.0, 0.1]]), 3)
    np.testing.assert_allclose(centroids, unit([[1990 + 6, 8]]), atol=1e-5)
    assert cluster.shape == (2000,) and not cluster.any()


def test_kmeans_starts_from_the_seeds_and_reaches_the_spherical_means():
    degrees = np.array([0, 10, 20, 80, 90, 100])
    tokens = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1) * [
        [3],
        [1],
        [1],
        [1],
        [5],
        [1],
    ]
    centroids, cluster = spherical_kmeans(tokens, np.array([[1.0, 0.0], [0.0, 7.0]]), 10)
    # Tokens count by direction, not by length: the means stand at 10 and 90 degrees.
    np.testing.assert_allclose(centroids, [[np.cos(np.pi / 18), np.sin(np.pi / 18)], [0, 1]], atol=1e-6)
    np.testing.assert_array_equal(cluster, [0, 0, 0, 1, 1, 1])


def test_kmeans_survives_more_seeds_than_tokens():
    tokens = np.eye(3, dtype=np.float32)
    centroids, cluster = spherical_kmeans(tokens, np.random.default_rng(0).normal(size=(9, 3)), 5)
    assert len(centroids) == 3 and sorted(cluster) == [0, 1, 2]
    np.testing.assert_allclose(centroids[cluster], tokens, atol=1e-6)


def test_kmeans_of_one_token_is_that_token():
    centroids, cluster = spherical_kmeans(np.array([[0.0, 2.0]]), np.ones((4, 2)), 5)
    np.testing.assert_allclose(centroids, [[0, 1]], atol=1e-6)
    np.testing.assert_array_equal(cluster, [0])


def test_equal_seeds_count_once():
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(50, 4)).astype(np.float32)
    start = tokens[:3]
    once = spherical_kmeans(tokens, start, 10)
    # Twice as long is the same direction.
    repeated = spherical_kmeans(tokens, np.concatenate([start, start * 2, start]), 10)
    np.testing.assert_array_equal(once[0], repeated[0])
    np.testing.assert_array_equal(once[1], repeated[1])


def test_no_cluster_is_empty_and_every_token_is_at_its_nearest_centroid():
    # All tokens alike: only one cluster can hold any of them, whatever faiss makes of the other four.
    tokens = np.tile(np.array([[1.0, 2.0, 3.0]], np.float32), (20, 1))
    centroids, cluster = spherical_kmeans(tokens, np.random.default_rng(2).normal(size=(5, 3)), 10)
    assert np.bincount(cluster, minlength=len(centroids)).min() > 0
    np.testing.assert_allclose(centroids @ unit(tokens[0]), 1, atol=1e-5)
    tokens = np.random.default_rng(3).normal(size=(200, 8)).astype(np.float32)
    centroids, cluster = spherical_kmeans(tokens, tokens[:30], 10)
    assert set(cluster) == set(range(len(centroids)))
    np.testing.assert_array_equal(cluster, (unit(tokens) @ centroids.T).argmax(axis=1))


def test_kmeans_gives_the_same_result_twice():
    tokens = np.random.default_rng(4).normal(size=(300, 16)).astype(np.float32)
    first, again = (spherical_kmeans(tokens, tokens[::10], 10) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_a_gpus_scratch_memory_is_allocated_once(monkeypatch):
    made, faiss = [], mining.faiss  # type: ignore[attr-defined]
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: made.append("scratch"), raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda scratch, gpu, index: index, raising=False)
    cached = (mining._scratch, mining._gpu_index)
    for one in cached:
        one.cache_clear()
    tokens = np.random.default_rng(4).normal(size=(60, 8)).astype(np.float32)
    try:
        centroids, cluster = spherical_kmeans(tokens, tokens[:4], 5, gpu=True)
        for _ in range(2):
            assert np.array_equal(
                mining.nearest(unit(tokens).astype(np.float32), centroids, 1, gpu=True)[1][:, 0], cluster
            )
    finally:
        for one in cached:
            one.cache_clear()
    assert made == ["scratch"]


def test_asking_for_a_gpu_where_there_is_none_uses_the_cpu(monkeypatch):
    monkeypatch.setattr(mining.faiss, "get_num_gpus", lambda: 0)  # type: ignore[attr-defined]
    tokens = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        spherical_kmeans(tokens, tokens[:4], 5, gpu=True)[1], spherical_kmeans(tokens, tokens[:4], 5, gpu=False)[1]
    )


def plane(*degrees):
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], np.float32)


def test_the_most_similar_pair_is_merged_first_and_each_seed_once_a_round():
    # 18 degrees apart is above 0.9 (25.8 degrees), so 0-18 and 18-30 qualify. 18-30 is the closer pair; merged
    # at 24 degrees (equal counts), it is 24 from the seed at 0: above 0.9 again, so the second round joins all.
    # With the threshold at cos 20 degrees it stays alone.
    np.testing.assert_array_equal(merge(plane(0, 18, 30), np.array([5, 5, 5]), 0.9), [0, 0, 0])
    np.testing.assert_array_equal(merge(plane(0, 18, 30), np.array([5, 5, 5]), np.cos(np.radians(20))), [0, 1, 1])


def test_a_merged_seed_leans_to_the_larger_cluster():
    # The seeds at 0 and 19 degrees merge first. With the weight at 19 the mean is 41 from the seed at -22, which
    # stays apart; with the weight at 0 it is 22 from it, and the second round joins them.
    close = plane(-22, 0, 19)
    threshold = float(np.cos(np.radians(25)))
    heavy_far = merge(close, np.array([1, 1, 100]), threshold)
    heavy_near = merge(close, np.array([1, 100, 1]), threshold)
    np.testing.assert_array_equal(heavy_far, [0, 1, 1])
    np.testing.assert_array_equal(heavy_near, [0, 0, 0])


def test_rounds_go_on_until_no_pair_is_above_the_threshold():
    # One round could only halve eight copies to four.
    np.testing.assert_array_equal(merge(plane(*[7] * 8), np.ones(8, int), 0.9), np.zeros(8))


def test_a_pair_at_the_threshold_itself_is_not_merged():
    centroids = np.array([[1, 0], [0.6, 0.8]], np.float32)
    np.testing.assert_array_equal(merge(centroids, np.array([1, 1]), float(np.float32(0.6))), [0, 1])
    np.testing.assert_array_equal(merge(centroids, np.array([1, 1]), 0.59), [0, 0])


@pytest.mark.parametrize("seed", range(12))
def test_merge_equals_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 30))
    centroids = unit(rng.normal(size=(size, 3))).astype(np.float32)
    counts = rng.integers(1, 50, size)
    threshold = float(rng.choice([0.5, 0.8, 0.9, 0.95]))
    assert grouped(merge(centroids, counts, threshold).tolist()) == slow_merge(centroids, counts, threshold)


def image(ids, dim=8, noise=0.05, seed=0):
    """Dense tokens of a grid whose cells of one id share a direction."""
    ids = np.asarray(ids)
    noisy = np.eye(dim)[ids] + noise * np.random.default_rng(seed).normal(size=(*ids.shape, dim))
    return noisy.astype(np.float32)


def halves():
    """8x8 cells: annotated top rows, three classes of 24, 16 and 8 cells below."""
    ids = np.zeros((8, 8), int)
    ids[2:, :4], ids[2:6, 4:], ids[6:, 4:] = 1, 2, 3
    share = np.zeros((8, 8), np.float32)
    share[:2] = 1
    return ids, share


def test_latent_classes_are_found_and_numbered_by_size():
    ids, share = halves()
    cells = mine(image(ids), share, MiningConfig(windows=(2, 4)))
    assert cells.dtype == np.uint8
    np.testing.assert_array_equal(cells, np.array([255, 0, 1, 2])[ids])


def test_annotated_cells_never_get_an_id_and_never_count():
    ids, share = halves()
    dense = image(ids)
    cells = mine(dense, share, MiningConfig(windows=(2, 4)))
    assert (cells[share == 1] == 255).all() and (cells[share == 0] != 255).all()
    dense[share == 1] = 1e6
    np.testing.assert_array_equal(mine(dense, share, MiningConfig(windows=(2, 4))), cells)


def test_a_cell_is_unannotated_up_to_the_set_share():
    share = np.array([[0.0, 0.5, 0.51, 1.0]], np.float32)
    dense = np.ones((1, 4, 2), np.float32)
    cfg = MiningConfig(windows=(2,), min_cells=1)
    np.testing.assert_array_equal(mine(dense, share, cfg), [[0, 0, 255, 255]])
    cfg = MiningConfig(windows=(2,), min_cells=1, max_annotated=0.0)
    np.testing.assert_array_equal(mine(dense, share, cfg), [[0, 255, 255, 255]])


def test_an_image_without_unannotated_cells_has_no_latent_class():
    cells = mine(np.full((4, 4, 2), np.nan, np.float32), np.ones((4, 4), np.float32), MiningConfig())
    np.testing.assert_array_equal(cells, np.full((4, 4), 255))


def test_a_small_cluster_joins_its_nearest_neighbour_or_is_dropped():
    ids = np.ones((6, 6), int)
    ids[:, 3:] = 2
    ids[0, 0] = 3
    dense = image(ids, noise=0)
    dense[0, 0] = [0, 0, 1, 0.8, 0, 0, 0, 0]  # nearer to class 2 than to its surroundings
    free = np.zeros((6, 6), np.float32)
    merged = mine(dense, free, MiningConfig(windows=(1,), min_cells=2))
    dropped = mine(dense, free, MiningConfig(windows=(1,), min_cells=2, small="drop"))
    kept = mine(dense, free, MiningConfig(windows=(1,), min_cells=1))
    assert merged[0, 0] == merged[0, 5] and len(np.unique(merged)) == 2
    assert dropped[0, 0] == 255 and sorted(np.unique(dropped)) == [0, 1, 255]
    assert kept[0, 0] == 2


def test_a_lone_small_class_is_kept_when_merging_and_dropped_when_dropping():
    share = np.ones((4, 4), np.float32)
    share[0, 0] = 0
    dense = np.ones((4, 4, 2), np.float32)
    assert mine(dense, share, MiningConfig(windows=(2,)))[0, 0] == 0
    assert (mine(dense, share, MiningConfig(windows=(2,), small="drop")) == 255).all()


def test_two_small_neighbours_may_together_be_large_enough():
    sizes = np.array([3, 2, 40])
    target = mining._absorb(plane(0, 30, 90), sizes, min_cells=4, most=MAX_LATENT)
    np.testing.assert_array_equal(target, [0, 0, 2])


def test_above_the_most_latent_classes_the_smallest_join_the_nearest():
    target = mining._absorb(plane(0, 50, 90), np.array([10, 5, 20]), min_cells=1, most=2)
    np.testing.assert_array_equal(target, [0, 2, 2])
    dense = np.eye(121, dtype=np.float32).reshape(11, 11, 121)
    cells = mine(dense, np.zeros((11, 11), np.float32), MiningConfig(windows=(1,), min_cells=1))
    assert cells.max() == MAX_LATENT - 1 and 255 not in cells


def test_mining_is_deterministic():
    rng = np.random.default_rng(9)
    dense, share = rng.normal(size=(16, 16, 12)).astype(np.float32), rng.random((16, 16)).astype(np.float32)
    cfg = MiningConfig(windows=(4, 8), merge_threshold=0.5)
    first = mine(dense, share, cfg)
    np.testing.assert_array_equal(first, mine(dense.copy(), share.copy(), cfg))
    assert sorted(np.unique(first)) == [*range(len(np.unique(first)) - 1), 255]


def test_tokens_that_are_not_finite_are_refused():
    dense = np.ones((4, 4, 2), np.float32)
    dense[1, 1, 0] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        mine(dense, np.zeros((4, 4), np.float32), MiningConfig())


@pytest.mark.parametrize("bad", [{"windows": ()}, {"windows": (0,)}, {"max_annotated": 1.0}, {"small": "keep"}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        MiningConfig(**bad)


def test_tokens_of_zero_length_do_not_spoil_the_others():
    ids, share = halves()
    dense = image(ids)
    dense[7, 7] = 0
    cells = mine(dense, share, MiningConfig(windows=(1, 2)))
    np.testing.assert_array_equal(cells[:7], np.array([255, 0, 1, 2])[ids][:7])


def test_a_pool_gives_blas_its_threads_back() -> None:
    def threads() -> list[int]:
        return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        miner = Miner(MiningConfig(), None, None, 8, gpu=False)  # type: ignore[arg-type]
        with miner.pool(2) as pool:
            assert set(pool.submit(threads).result()) == {1}
        assert threads() == before and set(before) == {2}


def test_where_k_means_runs_follows_the_flag_and_what_faiss_sees(monkeypatch):
    for seen, wanted in ((0, (False, False)), (1, (False, True))):
        monkeypatch.setattr(clustering, "gpus", lambda seen=seen: seen)
        assert tuple(clustering.on_gpu("auto", device) for device in (False, True)) == wanted
        assert not clustering.on_gpu("cpu", True)
    assert clustering.on_gpu("gpu", False)
    monkeypatch.setattr(clustering, "gpus", lambda: 0)
    with pytest.raises(InputError, match=r"--kmeans gpu: faiss sees no GPU here.*or use --kmeans cpu"):
        clustering.on_gpu("gpu", True)
    with pytest.raises(InputError, match="--kmeans tpu: choose auto, gpu or cpu"):
        clustering.on_gpu("tpu", True)
