"""extract: images, seen labels, frozen teacher -> global and local CLS tokens, dense tokens, text embeddings.

One pass over the data set (method.md section 1). A shard is computed from its own views alone, in batches that
do not depend on what was done before, so a resumed or divided run writes the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from cache.drafts import Drafts, Part, whole
from cache.errors import InputError
from cache.store import Artifact
from cache.tiers import CacheTiers
from stages.parts.data.datasets import BadSample, Dataset, Quarantine
from stages.parts.settings import ExtractConfig
from stages.parts.teacher.crops import BadView, TeacherBatch, TeacherView, TeacherViews, collate_views
from stages.parts.teacher.files import load_text_source
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.tokens import PendingTokens, encode, token_arrays
from stages.running.compute import Compute
from stages.running.loading import loaded, losses_explained
from stages.running.progress import Bar, Clock, ShardQueue, say
from stages.running.recipes import CacheRecipe

DRAFT_SECONDS = 10.0
"""How much of the teacher's work a stop may cost, besides the batch in work."""


def run(
    recipe: CacheRecipe, data: Dataset, prompts: tuple[str, ...], tiers: CacheTiers, *, compute: Compute
) -> dict[str, Any]:
    """Fills the tiers `tokens`, `text` and, unless it is switched off or was dropped, `dense`; returns the summary.

    Does only what is missing. Raises InputError for bad images past `data.max_bad` and StoreError where the store
    fails; committed shards, and of those in work the finished batches, stay, also after Ctrl-C, SIGTERM or a kill.
    """
    teacher = load_teacher(recipe.teacher, compute.device)
    write_text(teacher, prompts, data, tiers.text)
    return fill(recipe, teacher, data, tiers, workers=compute.workers)


def fill(recipe: CacheRecipe, teacher: Teacher, data: Dataset, out: CacheTiers, *, workers: int) -> dict[str, Any]:
    """`run` with a teacher at hand, and all but the text embeddings."""
    cfg, views, compute = recipe.extract, recipe.views, Compute(teacher.device, workers)
    rows, shards = len(data) * views.count, -(-len(data) * views.count // cfg.shard)
    tiers = [out.tokens, *([out.dense] if cfg.store_dense and not out.dense.dropped() else [])]
    clock, quarantine = Clock(), Quarantine(data.cfg.max_bad)
    ready = [a.committed() for a in tiers]
    if data.cfg.max_bad:
        quarantine.bad += [b for _, mark in out.tokens.marks(ready[0]) for b in mark["stats"]["bad"]]
    source = TeacherViews(data, views, teacher.input_size, teacher.crop_size)
    done = len(set.intersection(*map(set, ready)))
    with (
        losses_explained(compute),
        Bar("extract", rows, "views", done=min(done * cfg.shard, rows), divided=True) as bar,
        ThreadPoolExecutor(1) as writer,
        ShardQueue(tiers, shards) as queue,
    ):
        while queue.open():
            writing: Future[None] | None = None
            work = _Work(cfg, tiers, rows)
            batches = loaded(source, work.batches(queue, bar, quarantine), collate_views, compute)
            with work.kept():
                while (batch := _next(batches, clock)) is not None:
                    with clock("teacher"):
                        encoded = encode(teacher, batch, cfg)
                    shard, finished = work.add(batch.views, encoded)
                    for view in batch.views:
                        if isinstance(view, BadView):
                            quarantine.add(view.error)
                    bar.advance(len(batch.views))
                    with clock("write"):  # on a GPU also what is left of the teacher's own time
                        if not finished:
                            work.keep_late(shard)
                            continue
                        if writing is not None:
                            writing.result()
                    writing = writer.submit(_write, tiers, queue, shard, work.shards.pop(shard))
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


@dataclass
class _Shard:
    """A shard in work: its finished parts by first row, and batches whose tokens are on their way from the device."""

    drafts: Drafts
    parts: dict[int, Part]
    pending: list[tuple[list[TeacherView | BadView], PendingTokens]] = field(default_factory=list)
    kept: float = field(default_factory=time.perf_counter)

    def take_in(self, *, dense: bool) -> dict[int, Part]:
        """Waits for the pending batches; returns them as parts, which are now among the finished ones."""
        new = {batch[0].row: _part(batch, tokens, dense=dense) for batch, tokens in self.pending}
        self.pending, self.kept = [], time.perf_counter()
        self.parts |= new
        return new

    def keep(self, *, dense: bool) -> None:
        """Makes drafts of the pending batches."""
        for first, part in self.take_in(dense=dense).items():
            self.drafts.save(first, part)


class _Work:
    """The shards in work of one round, their batches, and the drafts of what an earlier run did of them."""

    def __init__(self, cfg: ExtractConfig, tiers: list[Artifact], rows: int) -> None:
        self.cfg, self.tiers, self.rows = cfg, tiers, rows
        self.shards: dict[int, _Shard] = {}
        self.dense = len(tiers) > 1

    def batches(self, queue: ShardQueue, bar: Bar, quarantine: Quarantine) -> Iterable[list[int]]:
        """The rows of each batch that is to do; shards are claimed as they are reached, not all at the start."""

        def made() -> Iterator[list[int]]:
            for shard in queue.claims():
                stop = min((shard + 1) * self.cfg.shard, self.rows)
                firsts = range(shard * self.cfg.shard, stop, self.cfg.batch)
                drafts = Drafts(self.tiers[0].at, shard)
                # The last batch is always done anew: it is what ends the shard.
                parts = {
                    k: p for k, p in drafts.load().items() if k in firsts[:-1] and ("dense" in p.arrays) >= self.dense
                }
                self.shards[shard] = _Shard(drafts, parts)
                for first in parts:
                    bar.skip(self.cfg.batch)
                    for bad in parts[first].about["bad"]:
                        quarantine.add(BadSample(bad))
                for first in firsts:
                    if first not in parts:
                        yield list(range(first, min(first + self.cfg.batch, stop)))

        return _Batches(made)

    def add(self, views: list[TeacherView | BadView], tokens: PendingTokens) -> tuple[int, bool]:
        """Takes in a batch; returns its shard and whether it was the shard's last."""
        shard = views[0].row // self.cfg.shard
        self.shards[shard].pending.append((views, tokens))
        return shard, views[-1].row + 1 == min((shard + 1) * self.cfg.shard, self.rows)

    def keep_late(self, shard: int) -> None:
        """Makes drafts, where the last ones are a while ago."""
        if time.perf_counter() - self.shards[shard].kept > DRAFT_SECONDS:
            self.shards[shard].keep(dense=self.dense)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Makes drafts of what is in work when the block is left by an error, Ctrl-C or SIGTERM."""
        try:
            yield
        except BaseException:
            with suppress(InputError):  # what stopped the run is what is said
                for shard in self.shards.values():
                    shard.keep(dense=self.dense)
            raise


def _part(batch: list[TeacherView | BadView], tokens: PendingTokens, *, dense: bool) -> Part:
    views = [v for v in batch if isinstance(v, TeacherView)]
    encoded = tokens.arrays()
    arrays = token_arrays(views, encoded) | ({"dense": encoded["dense"]} if dense else {})
    bad = [str(v.error) for v in batch if isinstance(v, BadView)]
    return Part([v.id for v in views], arrays, {"bad": bad})


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


def _write(tiers: list[Artifact], queue: ShardQueue, shard: int, work: _Shard) -> None:
    work.take_in(dense=len(tiers) > 1)
    ids, arrays = whole(work.parts)
    classes = arrays["local_region"].tolist()
    bad = [b for first in sorted(work.parts) for b in work.parts[first].about["bad"]]
    stats = {"bad": bad, "regions": len(classes), "classes": sorted(set(classes))}
    for artifact in tiers[1:]:
        if artifact.commit(shard) is None:
            artifact.write(shard, ids, {"dense": arrays["dense"]}, stats)
    if tiers[0].commit(shard) is None:
        tiers[0].write(shard, ids, {name: array for name, array in arrays.items() if name != "dense"}, stats)
    work.drafts.clear()
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
