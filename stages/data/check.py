"""`clip2seg data check`: audits a data set before anything is computed from it.

reads: a data set's folder | writes: nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from multiprocessing import get_context

from stages.parts.data.datasets import (
    BadSample,
    ClassStatistics,
    DataConfig,
    Dataset,
    Quarantine,
    Record,
    Subset,
    class_statistics,
    dataset_vocabulary,
    locate_subset,
)
from stages.parts.data.images import read_mask
from stages.parts.data.suspicions import MaskValues, looks_binary, mask_values, suspicions
from stages.parts.data.vocabulary import Vocabulary
from stages.running.progress import Bar

_CHUNK = 64
_NAMED = 20


@dataclass(frozen=True)
class ListReport:
    """What the audit found in one list."""

    name: str
    ids: tuple[str, ...]
    """Ids whose files are there."""
    listed: int
    """Ids on the list."""
    official: int | None
    """Ids on the official list of this name; None where there is none."""
    missing: tuple[str, ...]
    """Files that are missing, one line each."""
    bad: tuple[str, ...]
    """Samples that can't be used, one line each."""
    sides: tuple[int, int]
    """Shortest and longest side of all photos in pixels; (0, 0) without a photo."""
    classes: ClassStatistics
    """Over all K classes."""
    suspicions: tuple[str, ...] = ()
    """What its masks look like, other than class labels."""
    unlisted: int = 0
    """Photos in the folder that are on neither list."""
    unread: int = 0
    """Photos whose masks the preset doesn't read."""
    files: tuple[str, ...] = ()
    """The photos' files, in the order of `ids`."""


@dataclass(frozen=True)
class CheckReport:
    """Result of `check`."""

    vocabulary: Vocabulary
    train: ListReport
    val: ListReport

    @property
    def problems(self) -> tuple[str, ...]:
        """What would stop a run or falsify its scores."""
        twice = set(self.train.files) & set(self.val.files)
        both = sorted(one for one, file in zip(self.train.ids, self.train.files, strict=True) if file in twice)
        shared = f"{len(both)} ids are on both lists, first {both[0]!r}; take them off one" if both else None
        found = [*self.train.missing, *self.train.bad, *self.val.missing, *self.val.bad]
        return (*found, shared) if shared else tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores must know."""
        words, lines = self.vocabulary, []
        for part in (self.train, self.val):
            if part.official not in (None, part.listed):
                lines.append(
                    f"list {part.name}: {part.listed} ids, the official list has {part.official}; "
                    "scores can't be compared with published ones"
                )
            lines += [f"list {part.name}: {line}" for line in part.suspicions]
        if len(words.ordered) == 1:
            lines.append(
                f"one class alone, {words.ordered[0]!r}: where no other competes, its IoU is 100 whatever the student "
                "does; give the background a value and a name to have it scored against"
            )
        if self.train.unlisted:
            lines.append(f"{self.train.unlisted} photos are on neither list and are not used; add them to one")
        if self.train.unread and self.train.unread == len(self.train.ids):
            lines.append("no mask of a training photo is read: classes are learnt from the teacher alone")
        elif untaught := [name for name in words.seen if name in self.train.classes.absent]:
            lines.append(f"seen classes without a training pixel: {', '.join(untaught)}; they can't be learnt")
        if self.val.unread:
            lines.append("no evaluation photo has a mask: there is no score")
        elif untested := self.val.classes.absent:
            lines.append(f"classes without an evaluation pixel: {', '.join(untested)}; they have no score")
        return tuple(lines)

    def text(self) -> str:
        """The report as lines for a terminal."""
        words = self.vocabulary
        lines = [
            f"vocabulary {words.name}, split {words.split} ({words.split_hash}): "
            f"{len(words.seen)} seen + {len(words.unseen)} unseen classes"
        ]
        for part in (self.train, self.val):
            official = "" if part.official is None else f" of {part.official} official"
            low, high = part.sides
            unread = f"{part.unread} whose masks are not read, " if part.unread else ""
            lines.append(
                f"list {part.name}: {part.listed} ids{official}, {unread}{len(part.missing)} files missing, "
                f"{len(part.bad)} bad, sides {low} to {high} px"
            )
        width = max(map(len, words.ordered))
        lines.append(
            f"{'class':<{width}}         {'train images':>12} {'pixels':>12} {'val images':>12} {'pixels':>12}"
        )
        for i, name in enumerate(words.ordered):
            counts = [(part.classes.images[i], part.classes.pixels[i]) for part in (self.train, self.val)]
            numbers = " ".join(f"{count:>12,}" for pair in counts for count in pair)
            lines.append(f"{name:<{width}} {'seen' if i < len(words.seen) else 'unseen':>7} {numbers}")
        lines += [f"note: {line}" for line in self.notes]
        lines += [f"problem: {line}" for line in self.problems[:_NAMED]]
        if (more := len(self.problems) - _NAMED) > 0:
            lines.append(f"problem: ... and {more} more")
        lines.append("no problem found" if not self.problems else f"{len(self.problems)} problems")
        return "\n".join(lines)


def check(cfg: DataConfig, *, workers: int = 0) -> CheckReport:
    """Decodes every photo of both lists and every mask that a run would read, and reports all that is wrong, instead
    of stopping at the first.

    workers: processes that share the decoding; 0 decodes here. Raises InputError where there is nothing to
    audit: no folder, no list, no vocabulary.
    """
    train, val = _check_list(cfg, "train", workers), _check_list(cfg, "val", workers)
    return CheckReport(dataset_vocabulary(cfg), train, val)


def _check_list(cfg: DataConfig, subset: Subset, workers: int) -> ListReport:
    found = locate_subset(cfg, subset)
    name = cfg.train if subset == "train" else cfg.val
    words = dataset_vocabulary(cfg, found.renumbered)
    chunks = [
        Dataset(cfg, words, subset, found.records[i : i + _CHUNK], unlabelled=found.unlabelled)
        for i in range(0, len(found.records), _CHUNK)
    ]
    parts = []
    with Bar(f"check {name}", len(found.records), "images") as bar:
        for part in _audits(chunks, workers):
            bar.advance(min(_CHUNK, bar.total - bar.done))
            parts.append(part)
    sides = [side for part in parts for side in part.sides]
    empty = class_statistics(Dataset(cfg, words, subset, []), "all")
    return ListReport(
        name=name,
        ids=tuple(record.id for record in found.records),
        listed=found.listed,
        official=dict(words.official_counts).get(name),
        missing=tuple(found.missing),
        bad=tuple(line for part in parts for line in part.bad),
        sides=(min(sides), max(sides)) if sides else (0, 0),
        classes=reduce(lambda a, b: a.plus(b), (part.classes for part in parts), empty),
        suspicions=_suspicions([mask for part in parts for mask in part.masks], words),
        unlisted=found.unlisted,
        unread=sum(record.id in found.unlabelled for record in found.records),
        files=tuple(str(record.image) for record in found.records),
    )


def _suspicions(masks: list[MaskValues], words: Vocabulary) -> tuple[str, ...]:
    found = suspicions(masks, words.ignore)
    if not looks_binary(masks, words.raw_values):
        return found
    return (*found, '0 and 255 alone, and 255 means "no label": the masks look binary; list 255 under `values`')


@dataclass(frozen=True)
class _Audit:
    bad: tuple[str, ...]
    sides: tuple[int, ...]
    classes: ClassStatistics
    masks: tuple[MaskValues, ...]


def _audit(data: Dataset) -> _Audit:
    quarantine = Quarantine(2 * len(data))
    decoded: list[Record] = []
    sides: list[int] = []
    masks: list[MaskValues] = []
    for i, record in enumerate(data.records):
        try:
            sides += data.image(i).shape[:2]
            if record.id in data.unlabelled:
                continue
            masks.append(mask_values(read_mask(record.mask, data.cfg.max_pixels)))
        except BadSample as error:
            quarantine.add(error)
        else:
            decoded.append(record)
    classes = class_statistics(replace(data, records=decoded), "all", quarantine)
    return _Audit(tuple(quarantine.bad), (min(sides), max(sides)) if sides else (), classes, tuple(masks))


def _audits(chunks: list[Dataset], workers: int) -> Iterator[_Audit]:
    if workers == 0:
        yield from map(_audit, chunks)
        return
    # Spawned, not forked: the progress bar's thread must not be copied into a worker.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_audit, chunks)
