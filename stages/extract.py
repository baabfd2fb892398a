"""extract: images, seen labels, frozen teacher -> global and local CLS tokens, dense tokens, text embeddings.

One pass over the data set (method.md section 1). A shard is computed from its own views alone, in batches that
do not depend on what was done before, so a resumed or divided run writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from cache.store import Artifact
from cache.tiers import CacheTiers
from stages.parts.data.datasets import BadSample, Dataset, Quarantine
from stages.parts.settings import ExtractConfig
from stages.parts.teacher.crops import BadView, TeacherBatch, TeacherView, TeacherViews, collate_views
from stages.parts.teacher.files import load_text_source
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.tokens import PendingTokens, encode, token_arrays
from stages.running.compute import Compute
from stages.running.progress import Bar, Clock, ShardQueue, say
from stages.running.recipes import CacheRecipe


def run(
    recipe: CacheRecipe, data: Dataset, prompts: tuple[str, ...], tiers: CacheTiers, *, compute: Compute
) -> dict[str, Any]:
    """Fills the tiers `tokens`, `text` and, unless it is switched off or was dropped, `dense`; returns the summary.

    Does only what is missing.

    Raises InputError for bad images past `data.max_bad` and StoreError where the store fails; committed shards
    stay.
    """
    teacher = load_teacher(recipe.teacher, compute.device)
    write_text(teacher, prompts, data, tiers.text)
    return fill(recipe, teacher, data, tiers, workers=compute.workers)


def fill(recipe: CacheRecipe, teacher: Teacher, data: Dataset, out: CacheTiers, *, workers: int) -> dict[str, Any]:
    """`run` with a teacher at hand, and all but the text embeddings."""
    cfg, views = recipe.extract, recipe.views
    rows, shards = len(data) * views.count, -(-len(data) * views.count // cfg.shard)
    tiers = [out.tokens, *([out.dense] if cfg.store_dense and not out.dense.dropped() else [])]
    clock, quarantine = Clock(), Quarantine(data.cfg.max_bad)
    ready = [a.committed() for a in tiers]
    if data.cfg.max_bad:
        quarantine.bad += [b for _, mark in out.tokens.marks(ready[0]) for b in mark["stats"]["bad"]]
    source = TeacherViews(data, views, teacher.input_size, teacher.crop_size)
    done = len(set.intersection(*map(set, ready)))
    with (
        Bar("extract", rows - min(done * cfg.shard, rows), "views", divided=True) as bar,
        ThreadPoolExecutor(1) as writer,
        ShardQueue(tiers, shards) as queue,
    ):
        while queue.open():
            writing: Future[None] | None = None
            shard_views: list[TeacherView | BadView] = []
            encoded: list[PendingTokens] = []
            loaded = _load(cfg, source, queue, workers, pin=teacher.device.type == "cuda")
            while (batch := _next(loaded, clock)) is not None:
                with clock("teacher"):
                    encoded.append(encode(teacher, batch, cfg))
                shard_views += batch.views
                for view in batch.views:
                    if isinstance(view, BadView):
                        quarantine.add(view.error)
                bar.advance(len(batch.views))
                shard = batch.views[0].row // cfg.shard
                if batch.views[-1].row + 1 == min((shard + 1) * cfg.shard, rows):
                    with clock("write"):  # on a GPU also what is left of the teacher's own time
                        if writing is not None:
                            writing.result()
                    writing = writer.submit(_write, tiers, queue, shard, shard_views, encoded)
                    shard_views, encoded = [], []
            if writing is not None:
                writing.result()
        rate = bar.overall
    _check_bad(tiers[0], shards, data.cfg.max_bad)
    summary = _summary([*tiers, out.text], data.vocabulary.seen, shards, clock, rate)
    summary |= {"normalisation": teacher.normalisation}
    for artifact in tiers:
        if artifact.summary() is None:  # a run for other prompts alone has nothing to say of finished tokens
            artifact.finish(summary)
    return summary


def _load(
    cfg: ExtractConfig, source: TeacherViews, queue: ShardQueue, workers: int, *, pin: bool
) -> Iterator[TeacherBatch]:
    def batches() -> Iterator[list[int]]:
        for shard in queue.claims():
            stop = min((shard + 1) * cfg.shard, len(source))
            for start in range(shard * cfg.shard, stop, cfg.batch):
                yield list(range(start, min(start + cfg.batch, stop)))

    loader = DataLoader(
        source, batch_sampler=_Batches(batches), num_workers=workers, collate_fn=collate_views, pin_memory=pin
    )
    return iter(loader)


class _Batches:
    """A batch sampler whose shards are claimed as they are reached, not all at the start."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __iter__(self) -> Iterator[list[int]]:
        found: Iterator[list[int]] = self.make()
        return found


def _next(loaded: Iterator[TeacherBatch], clock: Clock) -> TeacherBatch | None:
    with clock("wait"):
        return next(loaded, None)


def _write(
    tiers: list[Artifact],
    queue: ShardQueue,
    shard: int,
    batch: list[TeacherView | BadView],
    encoded: list[PendingTokens],
) -> None:
    views = [v for v in batch if isinstance(v, TeacherView)]
    parts = [e.arrays() for e in encoded]
    joined = {k: np.concatenate([e[k] for e in parts]) for k in parts[0]}
    ids = [v.id for v in views]
    classes = [r for v in views for r in v.regions]
    bad = [str(v.error) for v in batch if isinstance(v, BadView)]
    stats = {"bad": bad, "regions": len(classes), "classes": sorted(set(classes))}
    for artifact in tiers[1:]:
        if artifact.commit(shard) is None:
            artifact.write(shard, ids, {"dense": joined["dense"]}, stats)
    if tiers[0].commit(shard) is None:
        tiers[0].write(shard, ids, token_arrays(views, joined), stats)
    queue.release(shard)


def write_text(teacher: Teacher, prompts: tuple[str, ...], data: Dataset, out: Artifact) -> None:
    """Fills the artifact `text`, unless it is complete."""
    if out.summary() is not None:
        return
    words, k = data.vocabulary, len(data.vocabulary.seen)
    with ShardQueue([out], 1) as queue:
        while queue.open():
            for shard in queue.claims():
                if teacher.cfg.text:
                    every = load_text_source(teacher.cfg.text, words.ordered)
                else:
                    every = teacher.encode_text(words.ordered, prompts).float().cpu().numpy()
                out.write(shard, [], {"seen": every[:k], "unseen": every[k:]}, {})
                queue.release(shard)
    out.finish({"classes": len(words.ordered)})
    say(f"text embeddings of {len(words.ordered)} classes -> {out}")


def _check_bad(tokens: Artifact, shards: int, limit: int) -> None:
    """Raises InputError where several processes, each within the limit, set aside too many samples together."""
    every = Quarantine(limit)
    for _, mark in tokens.marks(range(shards) if limit else []):
        for bad in mark["stats"]["bad"]:
            every.add(BadSample(bad))


def _summary(tiers: Sequence[Artifact], seen: Sequence[str], shards: int, clock: Clock, rate: float) -> dict[str, Any]:
    """Sums over the commit marks, each read once and none kept."""
    views = regions = 0
    bad: list[str] = []
    met: set[int] = set()
    sizes: dict[str, int] = {artifact.kind: 0 for artifact in tiers}
    for artifact in tiers:
        kind = artifact.kind
        wanted = range(shards) if kind == "tokens" else artifact.committed()
        for shard, mark in artifact.marks(wanted):
            sizes[kind] += sum(size for size, _ in mark["objects"].values())
            if kind == "tokens":
                stats = mark["stats"]
                if "regions" not in stats:  # a shard of an older run that this one completed
                    own = artifact.read(shard, ["local_region"])["local_region"].tolist()
                    stats = {**stats, "regions": len(own), "classes": own}
                views, regions = views + len(mark["ids"]), regions + stats["regions"]
                bad += stats["bad"]
                met |= set(stats["classes"])
    return {
        "views": views,
        "regions": regions,
        "absent": [name for i, name in enumerate(seen) if i not in met],
        "bad": bad,
        "bytes": sizes,
        "views_per_second": round(rate, 2),
        "seconds": {k: round(v, 1) for k, v in clock.seconds.items()},
    }
