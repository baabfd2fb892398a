"""Latent class mining: seeds, spherical k-means, merge (method.md section 2; the paper's Sec. 3.1, Eq. 1).

The one door to faiss. One image at a time, numpy in and out, no torch. h w: token grid, D: embedding size,
S: seeds, n: unannotated cells, L: latent classes of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cache.errors import InputError
from cache.settings import IGNORE
from cache.vectors import unit
from stages.parts.processes import local_rank_and_world
from stages.parts.settings import MiningConfig as MiningConfig

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

KMEANS = ("auto", "gpu", "cpu")

MAX_LATENT = 98
"""Most latent classes of one image: with COCO-Stuff's 156 seen classes their ids still fit below 255."""


def mine(dense: Floats, annotated_share: Floats, cfg: MiningConfig, gpu: bool = False) -> NDArray[np.uint8]:
    """Latent ids of one image's cells (method.md section 2, steps 1-4).

    `dense` C_d [h, w, D] raw tokens, `annotated_share` [h, w] in [0, 1] -> uint8 [h, w]: ids 0..L-1, largest
    class first, 255 = none (annotated, or dropped). No unannotated cell: all 255. Above MAX_LATENT classes the
    smallest are merged into their nearest. Raises ValueError for NaN or infinite tokens.
    """
    return mine_at(dense, annotated_share, cfg, (cfg.merge_threshold,), gpu)[0]


def mine_at(
    dense: Floats, annotated_share: Floats, cfg: MiningConfig, thresholds: Sequence[float], gpu: bool = False
) -> list[NDArray[np.uint8]]:
    """`mine` at several merge thresholds, for the price of one k-means."""
    unannotated = annotated_share <= cfg.max_annotated
    return mine_tokens(dense[unannotated], unannotated, cfg, thresholds, gpu)


def mine_tokens(
    tokens: Floats, unannotated: NDArray[np.bool_], cfg: MiningConfig, thresholds: Sequence[float], gpu: bool = False
) -> list[NDArray[np.uint8]]:
    """The same from the unannotated cells alone: raw tokens [n, D], and which cells they are, bool [h, w]."""
    cells = np.full(unannotated.shape, IGNORE, np.uint8)
    if not len(tokens):
        return [cells for _ in thresholds]
    if not np.isfinite(tokens).all():
        raise ValueError("dense tokens hold NaN or infinite values; the teacher's precision may be too low")
    centroids, cluster = spherical_kmeans(tokens, seeds(tokens, unannotated, cfg.windows), cfg.iterations, gpu)
    return [_merged(cells, unannotated, centroids, cluster, cfg, threshold) for threshold in thresholds]


def _merged(
    empty: NDArray[np.uint8],
    unannotated: NDArray[np.bool_],
    centroids: Floats,
    cluster: Ints,
    cfg: MiningConfig,
    threshold: float,
) -> NDArray[np.uint8]:
    """Clusters merged above the threshold, the small ones absorbed, named, on the grid: uint8 [h, w]."""
    cells, counts = empty.copy(), np.bincount(cluster)
    group = merge(centroids, counts, threshold)
    centroids, counts = _group_means(centroids, counts, group)
    kept = counts >= (cfg.min_cells if cfg.small == "drop" else 1)
    target = _absorb(centroids[kept], counts[kept], cfg.min_cells, MAX_LATENT)
    renamed = np.full(len(counts), -1)
    renamed[kept] = target
    cells[unannotated] = _largest_first(renamed[group[cluster]])
    return cells


def gpus() -> int:
    """GPUs that faiss itself can use; 0 with a CPU build, whatever torch sees."""
    return int(faiss.get_num_gpus())


def on_gpu(kmeans: str, device_is_gpu: bool) -> bool:
    """Whether k-means runs on a GPU: `auto`, where the stage computes on one and faiss sees it; `gpu`; `cpu`.

    Raises InputError for `gpu` where faiss sees none, and for another word.
    """
    if kmeans not in KMEANS:
        raise InputError(f"--kmeans {kmeans}: choose auto, gpu or cpu")
    if kmeans == "gpu" and not gpus():
        raise InputError(
            "--kmeans gpu: faiss sees no GPU here; install faiss-gpu (Linux x86-64, with NVIDIA's driver), or use "
            "--kmeans cpu"
        )
    return kmeans == "gpu" or (kmeans == "auto" and device_is_gpu and gpus() > 0)


def one_thread() -> None:
    """Keeps faiss to one core in the calling thread: for a pool that mines several images side by side."""
    faiss.omp_set_num_threads(1)


def one_blas_thread() -> threadpool_limits:
    """Keeps numpy's products to one core in the whole process while this context is open.

    An image's products are so small that BLAS threads do little but wait for each other, and how many there are would
    reach the last bits of the seeds.
    """
    return threadpool_limits(1, user_api="blas")


def seeds(tokens: Floats, unannotated: NDArray[np.bool_], windows: tuple[int, ...]) -> Floats:
    """Eq. 1: mean of the dense tokens in every window, annotated cells set to 0: [n, D], [h, w] -> [S, D].

    Stride round(o / 2). Windows without an unannotated cell are dropped. Where stride and grid don't divide, a
    last window is aligned with the edge, so every unannotated cell is covered. Not normalised.
    """
    inside = _windows(*unannotated.shape, windows)
    used = inside[(inside & unannotated.ravel()).any(axis=1)]
    members = used[:, unannotated.ravel()].astype(np.float32)
    return (members @ tokens.astype(np.float32, copy=False)) / used.sum(axis=1, keepdims=True, dtype=np.float32)


@lru_cache(maxsize=8)
def _windows(h: int, w: int, sizes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which cells each window covers, bool [windows, h * w]; windows cut to the same cells count once."""
    boxes = dict.fromkeys((y, min(o, h), x, min(o, w)) for o in sizes for y, x in product(_starts(h, o), _starts(w, o)))
    inside = np.zeros((len(boxes), h, w), np.bool_)
    for window, (y, tall, x, wide) in zip(inside, boxes, strict=True):
        window[y : y + tall, x : x + wide] = True
    inside.flags.writeable = False
    return inside.reshape(len(boxes), h * w)


def _starts(length: int, size: int) -> list[int]:
    last = max(length - size, 0)
    return sorted({*range(0, last + 1, max(round(size / 2), 1)), last})


def spherical_kmeans(tokens: Floats, seeds: Floats, iterations: int, gpu: bool = False) -> tuple[Floats, Ints]:
    """K-means by cosine from the given seeds: [n, D], [S, D] -> unit centroids [S', D], cluster of each token [n].

    Tokens and seeds are normalised here. Every token is used (faiss subsamples by default). faiss refuses
    more clusters than tokens, so the first n seeds are used, and makes each token its own centroid when there
    are as many. A cluster that runs empty takes half of a larger one while faiss iterates; those still empty
    at the end are dropped. Same input, same result. `gpu`: use a GPU when there is one, from one thread only.
    """
    points, start = kmeans_inputs(tokens, seeds)
    centroids, assigned = bare_kmeans(points, start, iterations, gpu)
    used, cluster = np.unique(assigned, return_inverse=True)
    return centroids[used], cluster.astype(np.int64)


def kmeans_inputs(tokens: Floats, seeds: Floats) -> tuple[Floats, Floats]:
    """Unit tokens [n, D] and the unit seeds to start from, at most n and no two equal."""
    start = unit(seeds)[: len(tokens)]
    # Of two equal seeds one would stay empty, and faiss would refill it at random.
    return unit(tokens), start[list({row.tobytes(): i for i, row in enumerate(start)}.values())]


def bare_kmeans(points: Floats, start: Floats, iterations: int, gpu: bool = False) -> tuple[Floats, Ints]:
    """The faiss calls that clustering can't do without: unit [n, D], unit seeds [S, D] -> [S, D], [n]."""
    kmeans = faiss.Kmeans(
        points.shape[1],
        len(start),
        niter=iterations,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    if gpu and faiss.get_num_gpus():
        kmeans.index = _gpu_index(points.shape[1])
    kmeans.train(points, init_centroids=start)
    _, assigned = kmeans.assign(points)
    return np.asarray(kmeans.centroids), assigned


def nearest(points: Floats, centroids: Floats, k: int, gpu: bool = False) -> tuple[Floats, Ints]:
    """The k nearest of unit centroids [S, D] to each of unit points [n, D], nearest first: cosines, rows [n, k]."""
    index: Any = faiss.IndexFlatIP(points.shape[1])
    if gpu and faiss.get_num_gpus():
        index = faiss.index_cpu_to_gpu(_scratch(), _gpu(), index)
    index.add(centroids)
    cosine, found = index.search(points, k)
    return cosine, found


@lru_cache(maxsize=1)
def _gpu_index(dim: int) -> Any:
    """One index for all images: making one takes longer than clustering one image."""
    return faiss.index_cpu_to_gpu(_scratch(), _gpu(), faiss.IndexFlatIP(dim))


@lru_cache(maxsize=1)
def _scratch() -> Any:
    """The GPU's scratch memory, over a gigabyte: allocated once, not for every search."""
    return faiss.StandardGpuResources()


def _gpu() -> int:
    """The number of the GPU that torchrun means for this process."""
    return local_rank_and_world()[0]


def merge(centroids: Floats, counts: Ints, threshold: float) -> Ints:
    """Greedy merge by cosine: unit centroids [S, D], cells of each [S] -> group of each [S], 0.. by first member.

    In one round pairs are taken most similar first while their cosine is above `threshold`, each seed at most
    once; a merged seed is the count-weighted mean, normalised. Rounds repeat until no pair is above it: one
    round alone, as the paper literally says, could at most halve the seeds and would keep near duplicates.
    """
    group = np.arange(len(centroids))
    weights = counts
    cosine = centroids.astype(np.float64) @ centroids.T.astype(np.float64)
    while pairs := _round(cosine, threshold):
        first, second = np.array(pairs).T
        stays = np.ones(len(cosine), np.bool_)
        stays[second] = False
        names = np.cumsum(stays) - 1
        names[second] = names[first]
        group = names[group]
        # The cosines of the merged seeds follow from those of the old ones: no need to go back to D dimensions.
        member = (names == np.arange(names.max() + 1)[:, None]) * weights
        weights = member.sum(axis=1)
        cosine = member @ cosine @ member.T
        length = np.sqrt(np.diagonal(cosine)).clip(min=1e-12)
        cosine /= length * length[:, None]
    return group


def _round(cosine: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Disjoint pairs i < j with cosine [S, S] above the threshold, most similar first; of equals the lowest i, j."""
    left, right = np.nonzero(cosine > threshold)
    left, right = left[left < right], right[left < right]  # numpy's triu makes two maps more
    order = np.argsort(-cosine[left, right], kind="stable")
    pairs, used = [], set[int]()
    for i, j in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if i not in used and j not in used:
            used.update((i, j))
            pairs.append((i, j))
    return pairs


def _group_means(centroids: Floats, counts: Ints, group: Ints) -> tuple[Floats, Ints]:
    """Count-weighted unit mean [G, D] and count [G] of each group."""
    member = (group == np.arange(group.max() + 1)[:, None]) * counts
    return unit(member.astype(np.float32) @ centroids), member.sum(axis=1)


def _absorb(centroids: Floats, counts: Ints, min_cells: int, most: int) -> Ints:
    """Merges the smallest class into its nearest while it is small or classes are too many; the last one stays.

    [G, D], [G] -> the class that each one ends in, [G].
    """
    target, alive = np.arange(len(counts)), np.arange(len(counts))
    means, sizes = centroids.copy(), counts.copy()
    while alive.size > 1:
        smallest = alive[np.argmin(sizes[alive])]
        if sizes[smallest] >= min_cells and alive.size <= most:
            break
        alive = alive[alive != smallest]
        nearest = alive[np.argmax(means[alive] @ means[smallest])]
        means[nearest] = unit(sizes[nearest] * means[nearest] + sizes[smallest] * means[smallest])
        sizes[nearest] += sizes[smallest]
        target[target == smallest] = nearest
    return target


def _largest_first(labels: Ints) -> NDArray[np.uint8]:
    """Renames labels [n] (-1: none -> 255) to 0.. by falling size; equals by first cell."""
    names, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes, names < 0))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    rank[names < 0] = IGNORE
    return rank[inverse].astype(np.uint8)
