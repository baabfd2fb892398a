"""mine-latent over its limit: the faiss calls that it can't do without; and other ways to cluster the same cells."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.harness import interleaved, result
from pipeline.benchmarks.world import World, dense_like
from stages import extract as stage
from stages.parts.data.regions import annotated_share
from stages.parts.mining.clustering import bare_kmeans, gpus, kmeans_inputs, mine, one_blas_thread, one_thread, seeds
from stages.parts.mining.miner import Miner, latent_arrays

TARGET = 2.0
"""Most time of the stage, the teacher's crops left out, over bare faiss (issue 15)."""


def mine_latent(world: World, rounds: int, device: torch.device, workers: int) -> dict[str, Any]:
    """Milliseconds an image of bare faiss, of the clustering, of the stage without and with the crops it cuts.

    Without crops: dense tokens read and checked, masks decoded, cells mined, the shard written.
    """
    cfg, data, shard = world.plan.config.mine_latent, world.data, world.plan.config.extract.shard
    dense = _dense(world, device)
    miner = Miner(cfg, data, world.plan.config.views, world.plan.config.teacher.crop_size or 224, gpu=False)
    fields = [np.asarray(row, np.float32) for s in dense.shards() for row in dense.rows(s, "dense")]
    grid = (fields[0].shape[0], fields[0].shape[1])
    shares = [annotated_share(miner.known(i), grid) for i in range(len(data))]
    open_cells = [share <= cfg.max_annotated for share in shares]
    used = [i for i, cells in enumerate(open_cells) if cells.any()]
    inputs = [
        kmeans_inputs(fields[i][open_cells[i]], seeds(fields[i][open_cells[i]], open_cells[i], cfg.windows))
        for i in used
    ]
    made: dict[str, list[np.ndarray]] = {}
    one_thread()
    one_blas_thread()  # for the rest of this process

    def bare() -> None:
        for points, start in inputs:
            bare_kmeans(points, start, cfg.iterations)

    def clustering() -> None:
        made["clustering"] = [mine(f, s, cfg) for f, s in zip(fields, shares, strict=True)]

    def without_crops() -> None:
        out, found = world.artifact("latent", "mined"), []
        for s in dense.shards():
            rows = range(s * shard, s * shard + len(dense.shard_ids(s)))
            maps = dense.rows(s, "dense")
            cells = [miner.cells(miner.known(r), next(maps))[0] for r in rows]
            found += cells
            empty = {k: v for k, v in latent_arrays([], np.zeros((0, 1), dense_dtype), grid).items() if k != "cells"}
            empty["local_offsets"] = np.zeros(len(cells) + 1, np.int64)
            out.write(s, dense.shard_ids(s), {"cells": np.stack(cells), **empty}, {})
        made["stage without crops"] = found

    def with_crops() -> None:
        with ThreadPoolExecutor(1, initializer=one_thread) as pool:
            made["stage with crops"] = [m.cells for m in pool.map(miner.mine, range(len(data)), fields)]

    def all_cores() -> None:
        with ThreadPoolExecutor(max(1, workers), initializer=one_thread) as pool:
            made["threads"] = list(pool.map(lambda f, s: mine(f, s, cfg), fields, shares))

    dense_dtype = world.plan.config.extract.dtype
    sides: dict[str, Any] = {
        "bare faiss": bare,
        "clustering": clustering,
        "stage without crops": without_crops,
        "stage with crops": with_crops,
        f"clustering, {max(1, workers)} threads": all_cores,
    }
    if importlib.util.find_spec("sklearn"):
        sides["scikit-learn KMeans"] = lambda: _scikit(inputs, cfg.iterations)
    if device.type == "cuda" and gpus():
        sides["bare faiss, GPU"] = lambda: [bare_kmeans(p, s, cfg.iterations, True) for p, s in inputs]
    measured = interleaved(sides, rounds, device)
    first = made["clustering"]
    equal = all(all(np.array_equal(a, b) for a, b in zip(first, cells, strict=True)) for cells in made.values())
    rows = {name: {"ms an image": round(1e3 * measured.median(name) / len(data), 2)} for name in sides}
    settings: dict[str, Any] = {
        "preset": world.plan.name,
        "images": len(data),
        "grid": f"{grid[0]}x{grid[1]}x{fields[0].shape[2]}",
        "unannotated cells": int(np.median([cells.sum() for cells in open_cells])),
        "seeds": int(np.median([len(start) for _, start in inputs])),
        "rounds": rounds,
        "cells equal": equal,
    }
    ratios = {"stage without crops / bare faiss": measured.ratio("stage without crops", "bare faiss", most=TARGET)}
    ratios["the same, processor time"] = measured.processor_ratio("stage without crops", "bare faiss")
    ratios["clustering / bare faiss, processor time"] = measured.processor_ratio("clustering", "bare faiss")
    for name in list(sides)[1:]:
        if name != "stage without crops":
            ratios[f"{name} / bare faiss"] = measured.ratio(name, "bare faiss")
    if "bare faiss, GPU" in sides:
        settings["GPU assigns as the CPU"] = _agreement(inputs, cfg.iterations)
    return result("mine-latent", device, settings, rows, ratios)


def _dense(world: World, device: torch.device) -> Any:
    """The dense tier: the teacher's own, or, of drawn photos, one that clusters alike."""
    if not world.drawn:
        out = world.tiers("teacher")
        stage.fill(world.plan.cache_recipe, world.teacher(device), world.data, out, workers=0)
        return out.dense
    dense, shard, data = world.artifact("dense", "made-dense"), world.plan.config.extract.shard, world.data
    for s, start in enumerate(range(0, len(data), shard)):
        rows = range(start, min(start + shard, len(data)))
        maps = np.stack([dense_like(data, i, (32, 32), 512) for i in rows]).astype(world.plan.config.extract.dtype)
        dense.write(s, [data.ids[i] for i in rows], {"dense": maps}, {})
    dense.finish({}, -(-len(data) // shard))
    return dense


def _scikit(inputs: list[tuple[np.ndarray, np.ndarray]], iterations: int) -> None:
    """The usual choice: Lloyd's algorithm from the same seeds for as many rounds (euclidean, not spherical)."""
    import warnings

    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ten rounds did not converge is the point of a fixed number
        for points, start in inputs:
            KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(points)


def _agreement(inputs: list[tuple[np.ndarray, np.ndarray]], iterations: int) -> float:
    """Share of all cells that GPU and CPU put into the same cluster."""
    pairs = [(bare_kmeans(p, s, iterations, True)[1], bare_kmeans(p, s, iterations)[1]) for p, s in inputs]
    return round(float(np.concatenate([a.ravel() == b.ravel() for a, b in pairs]).mean()), 5)
