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
from itertools import pairwise
from typing import Any

import numpy as np

from cache.claims import writing
from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from cache.tiers import CacheTiers, EarlierTiers
from stages.parts.data.datasets import BadSample, Dataset, Quarantine
from stages.parts.settings import ExtractConfig
from stages.parts.teacher.crops import BadView, TeacherBatch, TeacherView, TeacherViews, collate_views
from stages.parts.teacher.features import load_features
from stages.parts.teacher.files import load_text_source
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.texts import class_means, encode_texts
from stages.parts.teacher.tokens import PendingTokens, encode, token_arrays
from stages.running.compute import Compute, memory_explained
from stages.running.drafts import Drafts, Part, whole
from stages.running.earlier import Earlier, check_same_photos
from stages.running.loading import loaded, losses_explained
from stages.running.progress import Bar, Clock, ShardQueue, say
from stages.running.recipes import CacheRecipe

DRAFT_SECONDS = 10.0
"""How much of the teacher's work a stop may cost, besides the batch in work."""
TIERS = {"tokens": "", "dense": "dense", "affinity": "features"}
"""Artifacts of one shard a batch of views; the second name is the one array of a tier that has one."""


def run(
    recipe: CacheRecipe,
    data: Dataset,
    prompts: tuple[str, ...],
    tiers: CacheTiers,
    *,
    compute: Compute,
    earlier: Sequence[EarlierTiers] = (),
) -> dict[str, Any]:
    """Fills the tiers `tokens`, `text` and, where the recipe has them, `dense` and `affinity`; a dropped one stays so.

    Views that `earlier` caches hold, of the same photo and labels, are copied from there. Does only what is missing;
    returns the summary. Raises InputError for bad images past `data.max_bad`, StoreError where the store fails;
    committed shards, and of those in work the finished batches, stay, also after Ctrl-C, SIGTERM or a kill.
    """
    kept = [tiers.tokens, tiers.text]
    kept += [tiers.dense] if recipe.extract.store_dense else []
    kept += [tiers.affinity] if recipe.affinity.stored else []
    # One claim over all tiers, from the first moment: some are written late, or between two shards not at all.
    with (
        writing(*(artifact.at for artifact in kept), *(source.tiers.tokens.at for source in earlier)),
        memory_explained("lower extract.batch, which has an address of its own; committed shards stay"),
    ):
        teacher = load_teacher(recipe.teacher, compute.device)
        write_text(teacher, prompts, data, tiers.text)
        return fill(recipe, teacher, data, tiers, workers=compute.workers, earlier=earlier)


def fill(
    recipe: CacheRecipe,
    teacher: Teacher,
    data: Dataset,
    out: CacheTiers,
    *,
    workers: int,
    earlier: Sequence[EarlierTiers] = (),
) -> dict[str, Any]:
    """`run` with a teacher at hand, and all but the text embeddings."""
    cfg, views, compute = recipe.extract, recipe.views, Compute(teacher.device, workers)
    rows, shards = len(data) * views.count, -(-len(data) * views.count // cfg.shard)
    kept = {"tokens": True, "dense": cfg.store_dense, "affinity": recipe.affinity.stored}
    tiers = {kind: a for kind, a in out.by_kind().items() if kept.get(kind) and not a.dropped()}
    clock, quarantine = Clock(), Quarantine(data.cfg.max_bad)
    ready = {kind: a.committed() for kind, a in tiers.items()}
    if data.cfg.max_bad:
        quarantine.bad += [b for _, mark in out.tokens.marks(ready["tokens"]) for b in mark["stats"]["bad"]]
    # What is whole already, as the maps are where only the seen classes changed, is not made or copied again.
    kinds = [kind for kind in tiers if len(ready[kind]) < shards]
    features = load_features(recipe.affinity, teacher) if "affinity" in kinds else None
    # Features that are wanted later do not ask the teacher for its tokens again.
    asked = teacher if {*kinds} - {"affinity"} else None
    stored = Earlier(earlier if kinds else (), kinds)
    source = TeacherViews(data, views, teacher.input_size, teacher.crop_size, stored.known)
    done = len(set.intersection(*map(set, ready.values())))
    with (
        losses_explained(compute),
        Bar("extract", rows, "views", done=min(done * cfg.shard, rows), divided=True) as bar,
        ThreadPoolExecutor(1) as writer,
        ShardQueue([*tiers.values()], shards) as queue,
    ):
        while queue.open():
            writing: Future[None] | None = None
            work = _Work(cfg, rows, out.tokens.at, kinds, stored)
            batches = loaded(source, work.batches(queue, bar, quarantine), collate_views, compute)
            with work.kept():
                while (batch := _next(batches, clock)) is not None:
                    with clock("teacher"):
                        encoded = encode(asked, batch, cfg, features)
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
    _check_bad(out.tokens, shards, data.cfg.max_bad)
    text = [out.text] if out.text.committed() else []
    summary = _summary([*tiers.values(), *text], data.vocabulary.seen, shards, clock, rate)
    summary |= {"normalisation": teacher.normalisation}
    for artifact in tiers.values():
        if artifact.summary(shards) is None:  # a run for other prompts alone has nothing to say of finished tokens
            artifact.finish(summary, shards)
    return summary


@dataclass
class _Shard:
    """A shard in work: its finished parts by first row, and batches whose tokens are on their way from the device."""

    kinds: list[str]
    stored: Earlier
    drafts: Drafts
    parts: dict[int, Part]
    pending: list[tuple[list[TeacherView | BadView], PendingTokens]] = field(default_factory=list)
    kept: float = field(default_factory=time.perf_counter)

    def take_in(self) -> dict[int, Part]:
        """Waits for the pending batches; returns them as parts, which are now among the finished ones."""
        new = {batch[0].row: _part(batch, tokens, self.kinds, self.stored) for batch, tokens in self.pending}
        self.pending, self.kept = [], time.perf_counter()
        self.parts |= new
        return new

    def keep(self) -> None:
        """Makes drafts of the pending batches."""
        for first, part in self.take_in().items():
            self.drafts.save(first, part)


class _Work:
    """The shards in work of one round, their batches, and the drafts of what an earlier run did of them.

    `kinds`: the artifacts that are made; `at`: the one that keeps the drafts; `stored`: what earlier caches hold.
    """

    def __init__(self, cfg: ExtractConfig, rows: int, at: Location, kinds: list[str], stored: Earlier) -> None:
        self.cfg, self.rows, self.at, self.kinds, self.stored = cfg, rows, at, kinds, stored
        self.shards: dict[int, _Shard] = {}

    def batches(self, queue: ShardQueue, bar: Bar, quarantine: Quarantine) -> Iterable[list[int]]:
        """The rows of each batch that is to do; shards are claimed as they are reached, not all at the start."""

        def made() -> Iterator[list[int]]:
            for shard in queue.claims():
                stop = min((shard + 1) * self.cfg.shard, self.rows)
                firsts = range(shard * self.cfg.shard, stop, self.cfg.batch)
                drafts = Drafts(self.at, shard)
                # The last batch is always done anew: it is what ends the shard.
                kept = {first: part for first, part in drafts.load().items() if first in firsts[:-1]}
                parts = {
                    first: part
                    for first, part in kept.items()
                    if part.about["kinds"] == self.kinds and {"photos", "copied"} <= part.about.keys()
                }
                self.shards[shard] = _Shard(self.kinds, self.stored, drafts, parts)
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
            self.shards[shard].keep()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Makes drafts of what is in work when the block is left by an error, Ctrl-C or SIGTERM."""
        try:
            yield
        except BaseException:
            with suppress(InputError):  # what stopped the run is what is said
                for shard in self.shards.values():
                    shard.keep()
            raise


def _part(batch: list[TeacherView | BadView], tokens: PendingTokens, kinds: list[str], stored: Earlier) -> Part:
    """The arrays of all artifacts together: no two of them name one alike."""
    views = stored.with_regions([v for v in batch if isinstance(v, TeacherView)])
    encoded = stored.filled(views, tokens.arrays())
    arrays = token_arrays(views, encoded) if "tokens" in kinds else {}
    arrays |= {TIERS[kind]: encoded[TIERS[kind]] for kind in kinds if TIERS[kind]}
    about = {
        "kinds": kinds,
        "bad": [str(v.error) for v in batch if isinstance(v, BadView)],
        "regions": [r for v in views for r in v.regions],
        "photos": [v.photo_crc for v in views],
        "copied": sum(v.known is not None for v in views),
    }
    return Part([v.id for v in views], arrays, about)


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


def _write(tiers: dict[str, Artifact], queue: ShardQueue, shard: int, work: _Shard) -> None:
    if not _handed_over(tiers, shard, work):
        _commit(tiers, shard, work)
    work.drafts.clear()
    queue.release(shard)


def _handed_over(tiers: dict[str, Artifact], shard: int, work: _Shard) -> bool:
    """Commits a shard that an earlier cache has as it is: its objects become this one's, no array is read or made."""
    views = [view for batch, _ in work.pending for view in batch]
    at = None if work.parts else work.stored.one_shard(views)
    if at is None:
        return False
    made = [view for view in views if isinstance(view, TeacherView)]
    ids, photos = [view.id for view in made], [view.photo_crc for view in made]
    for artifact in reversed(tiers.values()):  # the tokens last: they are what other stages count
        if artifact.commit(shard) is not None:
            check_same_photos(artifact, shard, ids, photos)
        elif not work.stored.hand_over(at, artifact, shard, photos):
            return False
    return True


def _commit(tiers: dict[str, Artifact], shard: int, work: _Shard) -> None:
    """Writes a shard of arrays, to each artifact that lacks it."""
    work.take_in()
    ids, arrays = whole(work.parts)
    about = [work.parts[first].about for first in sorted(work.parts)]
    classes = [r for part in about for r in part["regions"]]
    photos = [crc for part in about for crc in part["photos"]]
    # Of what can be asked of a view alone: a map of whole images may lie beside tokens of other seen classes.
    map_stats = {"bad": [b for part in about for b in part["bad"]], "photos": photos}
    stats = {
        **map_stats,
        "regions": len(classes),
        "classes": sorted(set(classes)),
        "copied": sum(part["copied"] for part in about),
    }
    own = {TIERS[kind] for kind in TIERS if TIERS[kind]}
    for kind in reversed(tiers):  # the tokens last: they are what other stages count
        artifact = tiers[kind]
        if artifact.commit(shard) is None:
            names = {TIERS[kind]} if TIERS[kind] else arrays.keys() - own
            own_stats = stats if kind == "tokens" else map_stats
            artifact.write(shard, ids, {name: arrays[name] for name in arrays if name in names}, own_stats)
        else:
            check_same_photos(artifact, shard, ids, photos)


def write_text(teacher: Teacher, prompts: tuple[str, ...], data: Dataset, out: Artifact) -> None:
    """Fills the artifact `text`, unless it is complete."""
    if out.summary(1) is not None:
        return
    words, k = data.vocabulary, len(data.vocabulary.seen)
    with ShardQueue([out], 1) as queue:
        while queue.open():
            for shard in queue.claims():
                if teacher.cfg.text:
                    if words.say:
                        raise InputError(
                            f"vocabulary {words.name}: `say` needs a teacher with a text tower, not teacher.text"
                        )
                    every = load_text_source(teacher.cfg.text, words.ordered)
                else:
                    rows = encode_texts(teacher.encode_text, words.words, prompts)
                    every = class_means(rows, words.words).float().cpu().numpy()
                _check_apart(words.ordered, every)
                out.write(shard, [], {"seen": every[:k], "unseen": every[k:]}, {})
                queue.release(shard)
    out.finish({"classes": len(words.ordered)}, 1)
    say(f"text embeddings of {len(words.ordered)} classes -> {out}")


def _check_apart(names: Sequence[str], text: np.ndarray) -> None:
    """Raises InputError where two classes have one embedding: its teacher can't tell them apart."""
    order = np.lexsort(text.T[:8])
    for a, b in pairwise(order):
        if np.abs(text[a] - text[b]).max() < 1e-6:
            raise InputError(f"classes {names[a]!r} and {names[b]!r} have the same text embedding; rename or join them")


def _check_bad(tokens: Artifact, shards: int, limit: int) -> None:
    """Raises InputError where several processes, each within the limit, set aside too many samples together."""
    every = Quarantine(limit)
    for _, mark in tokens.marks(range(shards) if limit else []):
        for bad in mark["stats"]["bad"]:
            every.add(BadSample(bad))


def _summary(tiers: Sequence[Artifact], seen: Sequence[str], shards: int, clock: Clock, rate: float) -> dict[str, Any]:
    """Sums over the commit marks, each read once and none kept."""
    views = regions = copied = 0
    bad: list[str] = []
    met: set[int] = set()
    sizes: dict[str, int] = {artifact.kind: 0 for artifact in tiers}
    for artifact in tiers:
        kind = artifact.kind
        # Text embeddings are somebody else's work: whoever measures the images alone has none.
        for _, mark in artifact.marks(artifact.committed() if kind == "text" else range(shards)):
            sizes[kind] += sum(size for size, _ in mark["objects"].values())
            if kind == "tokens":
                stats = mark["stats"]
                views, regions = views + len(mark["ids"]), regions + stats["regions"]
                copied += stats.get("copied", 0)
                bad += stats["bad"]
                met |= set(stats["classes"])
    return {
        "views": views,
        "copied": copied,
        "regions": regions,
        "absent": [name for i, name in enumerate(seen) if i not in met],
        "bad": bad,
        "bytes": sizes,
        "views_per_second": round(rate, 2),
        "seconds": {k: round(v, 1) for k, v in clock.seconds.items()},
    }
