"""mine-latent over its limit, the faiss calls that it can't do without; mine-concepts on planted concepts."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.location import Location
from cache.store import Artifact
from cache.tiers import CacheTiers
from pipeline.benchmarks.harness import in_child, interleaved, peak_mib, result
from pipeline.benchmarks.world import World, dense_like
from stages import extract as stage
from stages import mine_concepts as concepts_stage
from stages.parts.data.regions import annotated_share
from stages.parts.mining.clustering import bare_kmeans, gpus, kmeans_inputs, mine, one_blas_thread, one_thread, seeds
from stages.parts.mining.concepts import ConceptsConfig
from stages.parts.mining.miner import Miner, latent_arrays
from stages.running.compute import Compute
from stages.running.progress import say

TARGET = 2.0
"""Most time of the stage, the teacher's crops left out, over bare faiss (issue 15)."""
REGIONS = (10**5, 10**6, 10**7)
"""Latent regions that `mine_concepts` measures, unless it is asked for another number."""
STORED = 10**6
"""Most regions that it writes, a gigabyte: the shards of a larger number are these again, from the first one on."""
PLANTED, DIM, AXES, SHARD, VIEW = 200, 512, 24, 10_000, 100
"""Planted concepts, length of a token, axes that the concepts differ in, regions of a shard and of a view."""


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


def mine_concepts(device: torch.device, folder: Path, regions: int = 0) -> dict[str, Any]:
    """Time, memory and recall of `mine-concepts` on float16 tokens around planted concepts, each in its own process.

    Recall: share of the regions that stand in the concept which is matched, one to one, with their planted one.
    """
    rows: dict[str, dict[str, Any]] = {}
    # The choice of a number looks at so many regions and no more: it costs the same at any size.
    for place, count in enumerate((regions,) if regions else REGIONS):
        at = folder / str(count)
        in_child(write_planted, str(at), min(count, STORED))
        for name, asked in (("number set", PLANTED), ("number chosen", 0))[: 1 if place else 2]:
            row = f"{count:.0e} regions, {name}"
            rows[row] = in_child(find_planted, str(at), asked, device.type, count)
            say(
                f"mine-concepts: {row}: {', '.join(f'{k} {v}' for k, v in rows[row].items())}"
            )  # who stops it has these
        shutil.rmtree(at)
    settings = {
        "planted concepts": PLANTED,
        "D": DIM,
        "sample": ConceptsConfig().sample,
        "regions a shard": SHARD,
        "different regions": f"at most {STORED}",
    }
    return result("mine-concepts", device, settings, rows, {})


class Repeated(Artifact):
    """A latent tier of `count` shards: the stored ones, which come round again under other numbers."""

    def __init__(self, stored: Artifact, count: int) -> None:
        super().__init__(stored.at, stored.kind)
        self.stored, self.count = stored.shards(), count

    def shards(self) -> Sequence[int]:
        """All shards, the repeated ones too."""
        return range(self.count)

    def marks(self, shards: Sequence[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """(shard, commit mark of the shard that stands for it)."""
        held = dict(super().marks(self.stored))
        for shard in self.shards() if shards is None else shards:
            yield shard, held[shard % len(self.stored)]

    def read(self, shard: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays of the shard that stands for it, read and checked each time."""
        return super().read(shard % len(self.stored), names)

    def shard_ids(self, shard: int) -> list[str]:
        """Ids of the stored shard."""
        return super().shard_ids(shard % len(self.stored))


def _planted(at: Path, asked: int) -> CacheTiers:
    """New tiers; those that a number of concepts decides stand apart."""
    own = {"concepts": f"{asked}/concepts", "membership": f"{asked}/membership"}
    about = {"dtype": "float16", "stage": "benchmark", "seen": []}
    return CacheTiers(
        **{
            f.name: Artifact(Location(str(at / own.get(f.name, f.name))), f.name).create(about)
            for f in fields(CacheTiers)
        }
    )


def _groups(count: int) -> Iterator[tuple[int, np.ndarray]]:
    """(shard, planted concept of each of its regions): as unlike in size as real ones are."""
    share = 1 / np.arange(5, PLANTED + 5)
    for shard in range(-(-count // SHARD)):
        random = np.random.default_rng([1, shard % (STORED // SHARD)])
        yield shard, random.choice(PLANTED, min(SHARD, count - shard * SHARD), p=share / share.sum())


def write_planted(at: str, count: int) -> None:
    """What one process runs: a latent tier whose concepts differ in few axes, under noise that makes them overlap."""
    random, latent = np.random.default_rng(0), _planted(Path(at), 0).latent
    axes = np.linalg.qr(random.normal(size=(DIM, AXES)))[0].T.astype(np.float32)
    centres = random.normal(size=(PLANTED, AXES)).astype(np.float32)
    common = 3 * random.normal(size=DIM).astype(np.float32) / np.sqrt(DIM) * np.sqrt(AXES)
    for shard, group in _groups(count):
        random = np.random.default_rng([2, shard])
        inside = centres[group] + 0.45 * random.standard_normal((len(group), AXES), np.float32)
        tokens = common + inside @ axes + 0.05 * random.standard_normal((len(group), DIM), np.float32)
        views = len(group) // VIEW
        arrays = {
            "cells": np.zeros((views, 1, 1), np.uint8),
            "local": tokens.astype(np.float16),
            "local_region": np.tile(np.arange(VIEW, dtype=np.uint8), views),
            "local_offsets": VIEW * np.arange(views + 1),
        }
        ids = [f"{shard}-{view}" for view in range(views)]
        latent.write(shard, ids, arrays, {"classes": [VIEW] * views})
    latent.finish({}, -(-count // SHARD))


def find_planted(at: str, asked: int, device: str, regions: int) -> dict[str, Any]:
    """What another process runs: the stage; returns its figures."""
    from scipy.optimize import linear_sum_assignment

    made = _planted(Path(at), asked)
    tiers = replace(made, latent=Repeated(made.latent, -(-regions // SHARD)))
    start, processor = time.perf_counter(), time.process_time()
    found = concepts_stage.run(ConceptsConfig(count=asked), tiers, compute=Compute(torch.device(device)))
    taken = {"seconds": round(time.perf_counter() - start, 1), "processor s": round(time.process_time() - processor, 1)}
    together = np.zeros((PLANTED, found["concepts"]), np.int64)
    for shard, group in _groups(found["regions"]):
        np.add.at(together, (group, tiers.membership.read(shard, ["concept"])["concept"]), 1)
    matched = together[linear_sum_assignment(-together)].sum()
    return {
        "concepts": found["concepts"],
        **taken,
        "peak MiB": round(peak_mib()),
        "recall": round(float(matched / together.sum()), 4),
    }
