"""Runs one stage of a plan: opens what it reads, skips it when it is done, hands over what it writes."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from pipeline.plan import Plan
from stages.running.compute import Compute, check_flags, resolve
from stages.running.progress import rank_and_world, say

if TYPE_CHECKING:
    from stages.online import OnlineTeacher
    from stages.parts.data.datasets import Dataset
    from stages.parts.scoring.bias_curve import Point
    from stages.parts.teacher.refine import Refiner

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Names of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: convolutions on CPU otherwise spend most time in page faults.

    Elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(_M_TOP_PAD, 64 * 2**20)


@dataclass(frozen=True)
class Machine:
    """Device and loader processes as asked for on the command line. Raises InputError for impossible ones.

    Flags: where and how fast, never part of a fingerprint.
    """

    device: str = "auto"
    workers: int = -1

    def __post_init__(self) -> None:
        check_flags(self.device, self.workers)

    @cached_property
    def compute(self) -> Compute:
        """What these flags stand for here.

        Also does what only a program of its own may do to its process: tunes glibc's allocator, and makes the GPU of
        this process torch's current one.
        """
        keep_freed_memory()
        found = resolve(self.device, self.workers)
        if found.gpu:
            import torch

            torch.cuda.set_device(found.device)
        return found


def extract(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Tokens, dense tokens and text embeddings."""
    if (done := _done(plan, "extract")) is not None:
        return done
    from stages import extract as stage

    c = plan.config
    kinds = [
        "tokens",
        "text",
        *(["dense"] if c.extract.store_dense else []),
        *(["affinity"] if c.affinity.encoder else []),
    ]
    out = {kind: _created(plan, kind, "extract") for kind in kinds}
    out = {kind: artifact for kind, artifact in out.items() if not artifact.dropped()}
    summary = stage.run(
        c.extract,
        c.teacher,
        c.views,
        plan.train_data,
        plan.prompts,
        out,
        affinity=c.affinity,
        device=machine.compute.device,
        workers=machine.compute.workers,
    )
    return _result("extract", False, summary, plan.address("tokens"))


def mine_latent(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Cell masks of latent classes and their local tokens."""
    if (done := _done(plan, "mine-latent")) is not None:
        return done
    from stages import mine_latent as stage

    c, refiner = plan.config, _refiner(plan)
    tokens, dense = plan.artifact("tokens"), plan.artifact("dense")
    summary = stage.run(
        c.mine_latent,
        c.extract,
        c.teacher,
        c.views,
        plan.train_data,
        tokens,
        dense if dense.summary() is not None else None,
        _created(plan, "latent", "mine-latent"),
        refiner=refiner,
        features=plan.artifact("affinity") if refiner.needs_features else None,
        device=machine.compute.device,
        workers=machine.compute.workers,
    )
    return _result("mine-latent", False, summary, plan.address("latent"))


def train(plan: Plan, machine: Machine, *, compiled: bool = False, online: bool = False) -> dict[str, Any]:
    """The student. `online`: with the teacher in the loop and no cache, at an address of its own."""
    at = plan.artifacts.child(f"online-{plan.fingerprint('train')}") if online else plan.address("train")
    if (done := _finished("train", at) if online else _done(plan, "train")) is not None:
        return done
    from stages import train as stage

    c = plan.config
    recipe = stage.Recipe(c.train, c.views, c.student, c.distill, c.latent_embedding, c.pixel_loss)
    provenance = plan.provenance("train", "train")
    summary = stage.run(
        recipe,
        plan.train_data,
        plan.artifact("text"),
        (plan.artifact("tokens"), plan.artifact("latent")) if plan.distilled and not online else None,
        at,
        provenance,
        device=machine.compute.device,
        workers=machine.compute.workers,
        compiled=compiled,
        online=_online_teacher(plan, machine) if online else None,
    )
    _report("train", at)
    return _result("train", False, summary, at)


def _report(stage: str, at: Location) -> None:
    if rank_and_world()[0] == 0:
        say(f"{stage}: report at {write_report(at)}")


def write_report(at: Location) -> str:
    """The HTML page of a run with the evaluations there are; returns its address."""
    from pipeline.study.runs import run_at
    from stages import report as run_report

    return run_report.run(at, run_at(at).evaluations)


def _online_teacher(plan: Plan, machine: Machine) -> OnlineTeacher:
    """The teacher for a training loop; writes the text embeddings, which training reads, where they are missing."""
    from stages import extract as stage
    from stages.online import OnlineTeacher
    from stages.parts.teacher.teacher import load_teacher

    c, refiner = plan.config, _refiner(plan)
    if refiner.needs_features:
        raise InputError("train --online: the second network of [affinity] is read from the cache; train without it")
    teacher = load_teacher(c.teacher, machine.compute.device)
    stage.write_text(teacher, plan.prompts, plan.train_data, _created(plan, "text", "extract"))
    return OnlineTeacher(teacher, c.extract, c.mine_latent, refiner)


def evaluate(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Scores of the student."""
    if (done := _done(plan, "eval")) is not None:
        return done | {"report": plan.address("eval").get_mark("report.json")}
    from stages import evaluate as stage

    report = stage.run(
        plan.config.eval,
        plan.val_data,
        plan.artifact("text"),
        plan.address("train"),
        plan.address("eval"),
        device=machine.compute.device,
        workers=machine.compute.workers,
    )
    _report("eval", plan.address("train"))
    return _result("eval", False, {}, plan.address("eval")) | {"report": report}


def bias_curve(plan: Plan, machine: Machine, also: Sequence[float] = ()) -> list[Point]:
    """The student's scores over the seen bias, at those of `also` too, from one pass over the evaluation images."""
    from stages import evaluate as stage

    return stage.run_curve(
        plan.config.eval,
        plan.val_data,
        plan.artifact("text"),
        plan.address("train"),
        also,
        device=machine.compute.device,
        workers=machine.compute.workers,
    )


def evaluate_transfer(
    plan: Plan, words: Plan, data: Dataset, at: Location, on: str, machine: Machine
) -> dict[str, Any]:
    """Scores of the student on another data set; the artifact `text` of `words` has its names, or gets them."""
    from stages import evaluate as stage

    if (text := words.artifact("text")).summary(1) is None:
        from stages import extract
        from stages.parts.teacher.teacher import load_teacher

        teacher = load_teacher(plan.config.teacher, machine.compute.device)
        extract.write_text(teacher, plan.prompts, words.train_data, _created(words, "text", "extract"))
    return stage.run_transfer(
        plan.config.eval,
        data,
        (text, words.vocabulary.ordered),
        plan.address("train"),
        at,
        on,
        device=machine.compute.device,
        workers=machine.compute.workers,
    )


def evaluate_teacher(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Scores of the teacher, training-free; loads CLIP."""
    at = plan.address("teacher")
    if at.get_mark("complete.json") is not None:
        return _result("eval", True, {}, at) | {"report": at.get_mark("report.json")}
    from stages import evaluate as stage

    report = stage.run_teacher(
        plan.config.eval,
        plan.config.teacher,
        plan.val_data,
        plan.artifact("text"),
        at,
        refiner=_refiner(plan),
        device=machine.compute.device,
        workers=machine.compute.workers,
    )
    return _result("eval", False, {}, at) | {"report": report}


def verify_teacher(plan: Plan, machine: Machine, sample: int) -> dict[str, Any]:
    """A sample of cached views encoded again and compared; loads CLIP."""
    from stages import verify as stage

    c, dense, latent = plan.config, plan.artifact("dense"), plan.artifact("latent")
    return stage.run(
        c.extract,
        c.mine_latent,
        c.teacher,
        c.views,
        plan.train_data,
        plan.artifact("tokens"),
        dense if dense.committed() else None,
        latent if latent.committed() else None,
        sample=sample,
        device=machine.compute.device,
    )


def _refiner(plan: Plan) -> Refiner:
    """What [refine] and [affinity] make of a stored map. Raises InputError where they ask for a network of no name."""
    from stages.parts.teacher.refine import Refiner

    plan.reads_network()
    return Refiner(plan.config.refine, plan.config.affinity)


def _created(plan: Plan, kind: str, stage: str) -> Artifact:
    return plan.artifact(kind).create(plan.provenance(kind, stage))


def _done(plan: Plan, stage: str) -> dict[str, Any] | None:
    step = next(s for s in plan.steps() if s.stage == stage)
    return _finished(stage, plan.address(step.writes[0])) if step.done else None


def _finished(stage: str, at: Location) -> dict[str, Any] | None:
    mark = at.get_mark("complete.json")
    if mark is None:
        return None
    say(f"{stage}: already complete at {at}; nothing to do")
    return _result(stage, True, mark.get("summary", {}), at)


def _result(stage: str, already: bool, summary: dict[str, Any], at: object) -> dict[str, Any]:
    return {"stage": stage, "already_complete": already, "address": str(at), "summary": summary}
