"""Runs one stage of a plan: opens what it reads, skips it when it is done, hands over what it writes."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from cache.summary import per_view
from pipeline.ingredients import older_concepts
from pipeline.inspection.naming import naming
from pipeline.plan import Plan
from pipeline.shown import link
from stages.parts.processes import rank_and_world
from stages.running.compute import Compute, check_flags, resolve
from stages.running.progress import say
from stages.running.scoring.reports import read_report

if TYPE_CHECKING:
    from stages.online import OnlineTeacher
    from stages.parts.data.datasets import Dataset, Which
    from stages.parts.data.vocabulary import Vocabulary
    from stages.parts.eval_report import EvalReport
    from stages.parts.scoring.bias_curve import Point
    from stages.parts.scoring.risk import RiskCurve
    from stages.parts.teacher.texts import Encode
    from stages.running.board import Tracker

P = ParamSpec("P")
R = TypeVar("R")

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


def draw_world(plan: Plan) -> None:
    """Draws the demo world that a plan reads, unless it is there; does nothing for other data."""
    if plan.world is not None:
        from stages.demo.world import write_world

        root, world = Path(plan.data_config.root), plan.world
        if write_world(root, seed=world.seed, train=world.train, val=world.val):
            say(f"demo world: {world.train} + {world.val} images drawn -> {root}")


def suggesting(stage: Callable[Concatenate[Plan, P], R]) -> Callable[Concatenate[Plan, P], R]:
    """A stage whose errors suggest commands for the plan's own configuration."""

    @wraps(stage)
    def run(plan: Plan, *args: P.args, **kwargs: P.kwargs) -> R:
        with plan.invocation.suggestions():
            return stage(plan, *args, **kwargs)

    return run


@suggesting
def extract(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Tokens, dense tokens and text embeddings; `naming` of the result: how well they name seen regions, or None."""
    if unlisted := plan.unlisted:
        say(f"{unlisted} photos of {plan.data_config.root} are on neither list and take no part; add them to one")
    if (result := _done(plan, "extract")) is not None:
        _check_unedited(plan)
    else:
        result = _extracted(plan, machine)
    return result | {"naming": naming(plan.artifact("tokens"), plan.artifact("text"), plan.vocabulary.seen)}


def _extracted(plan: Plan, machine: Machine) -> dict[str, Any]:
    draw_world(plan)
    from stages import extract as stage

    tiers, c = plan.tiers(), plan.config
    wanted = [tiers.tokens, tiers.text]
    wanted += [tiers.dense] if c.extract.store_dense else []
    wanted += [tiers.affinity] if c.affinity.stored else []
    for artifact in wanted:
        _create(plan, artifact, "extract")
    summary = stage.run(
        plan.cache_recipe, plan.train_data, plan.prompts, tiers, compute=machine.compute, earlier=plan.earlier()
    )
    return _result("extract", False, summary, plan.address("tokens"))


@suggesting
def mine_latent(plan: Plan, machine: Machine, *, kmeans: str = "auto") -> dict[str, Any]:
    """Cell masks of latent classes and their local tokens. `kmeans`: where faiss clusters, auto, gpu or cpu."""
    if (done := _done(plan, "mine-latent")) is not None:
        return done
    draw_world(plan)
    from stages import mine_latent as stage

    plan.reads_network()  # refuses settings whose features nothing names
    tiers = plan.tiers()
    _create(plan, tiers.latent, "mine-latent")
    summary = stage.run(
        plan.cache_recipe,
        plan.train_data,
        tiers,
        compute=machine.compute,
        kmeans=kmeans,
        earlier=[one for one in plan.earlier() if one.same_seen],
    )
    return _result("mine-latent", False, summary, plan.address("latent"))


@suggesting
def mine_concepts(plan: Plan, machine: Machine, *, kmeans: str = "auto") -> dict[str, Any]:
    """Concepts of the latent regions of the whole data set. `kmeans`: where faiss clusters, auto, gpu or cpu."""
    tiers = plan.tiers()
    if (done := _finished("mine-concepts", tiers.membership.at)) is not None:
        return done
    from stages import mine_concepts as stage

    # Looked at before anything is made, so that a refused run leaves nothing.
    if tiers.latent.at.size("zarr.json") is None:
        raise InputError(f"{tiers.latent}: nothing mined; run `{plan.invocation.command('mine-latent')}` first")
    for artifact in (tiers.concepts, tiers.membership):
        _create(plan, artifact, "mine-concepts")
    summary = stage.run(
        plan.config.mine_concepts, tiers, older_concepts(plan.config), compute=machine.compute, kmeans=kmeans
    )
    return _result("mine-concepts", False, summary, plan.address("membership"))


@suggesting
def pseudo_label(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Pseudo labels of cells: the seen names that the teacher is sure of."""
    tiers = plan.tiers()
    if (done := _finished("pseudo-label", tiers.pseudo.at)) is not None:
        return done
    draw_world(plan)
    from stages import pseudo_label as stage

    # Looked at before anything is made, so that a refused run leaves nothing.
    if tiers.tokens.at.size("zarr.json") is None:
        raise InputError(f"{tiers.tokens}: nothing extracted; run `{plan.invocation.command('extract')}` first")
    plan.reads_network()  # refuses settings whose features nothing names
    _create(plan, tiers.pseudo, "pseudo-label")
    summary = stage.run(plan.config.pseudo_label, plan.cache_recipe, plan.train_data, tiers, compute=machine.compute)
    return _result("pseudo-label", False, summary, plan.address("pseudo"))


def _check_unedited(plan: Plan) -> None:
    """Raises InputError where training photos or masks are no longer those that the cache was made of."""
    from stages.running.edited import check_unedited

    kinds = ("dense", "affinity", "tokens", "latent", "concepts", "membership", "pseudo", "train")
    made = [at.name for at in map(plan.address, kinds) if at.names()]
    check_unedited(plan.tiers().tokens, plan.train_data, plan.config.views.count, made)


def make_cache(plan: Plan, machine: Machine) -> None:
    """All that training reads of the cache: what is missing of it is made."""
    extract(plan, machine)
    if plan.distilled:
        mine_latent(plan, machine)
    if plan.reads_concepts:
        mine_concepts(plan, machine)
    if plan.reads_pseudo_labels:
        pseudo_label(plan, machine)


@suggesting
def train(
    plan: Plan,
    machine: Machine,
    *,
    compiled: bool | None = None,
    online: bool = False,
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """The student. `online`: with the teacher in the loop and no cache, at an address of its own.

    `trackers` are told what TensorBoard is.
    """
    at = plan.artifacts.child(f"online-{plan.fingerprint('train')}") if online else plan.address("train")
    if (done := _finished("train", at) if online else _done(plan, "train")) is not None:
        _check_unedited(plan)
        return done
    draw_world(plan)
    from pipeline.study.watching import showing
    from stages import train as stage

    compute = replace(machine.compute, compiled=compiled)
    summary = stage.run(
        plan.train_recipe,
        plan.train_data,
        plan.tiers(),
        stage.RunFolder(
            at,
            plan.provenance("train", "train"),
            showing(plan, compute.device, trackers),
            plan.parent.at if plan.parent else None,
        ),
        compute=compute,
        teacher=_online_teacher(plan, compute) if online else None,
    )
    _report(plan, "train", at)
    return _result("train", False, summary, at)


def _report(plan: Plan, stage: str, at: Location) -> None:
    if rank_and_world()[0] == 0:
        say(f"{stage}: report at {link(write_report(plan, at))}")


def write_report(plan: Plan, at: Location) -> str:
    """The HTML page of a run with the evaluations there are; returns its address."""
    from pipeline.study.references import with_references
    from pipeline.study.runs import run_at
    from stages import report as run_report

    typed = plan.invocation
    commands = {
        "eval": typed.command("eval"),
        "ablate": typed.command("ablate", "--table", "3"),
        "calibrate": typed.command("calibrate"),
    }
    latent = per_view(plan.tiers().latent) if plan.distilled and plan.tiers().latent.summary() is not None else None
    return run_report.run(at, with_references(run_at(at)), commands, latent)


def _online_teacher(plan: Plan, compute: Compute) -> OnlineTeacher:
    """The teacher for a training loop; writes the text embeddings, which training reads, where they are missing."""
    from stages import extract as stage
    from stages.online import OnlineTeacher
    from stages.parts.teacher.teacher import load_teacher

    if plan.reads_network():
        raise InputError(
            "train --online-teacher: the features of [affinity] are read from the cache; train without the option"
        )
    if plan.reads_pseudo_labels:
        raise InputError(
            "train --online-teacher: pixel-loss.pseudo_weight reads pseudo labels from the cache; train without the "
            "option"
        )
    if plan.reads_concepts:
        asked = (
            "distill.same_concept" if plan.train_recipe.compares_concepts else 'latent-embedding.classes = "concept"'
        )
        raise InputError(f"train --online-teacher: {asked} reads concepts from the cache; train without the option")
    teacher, text = load_teacher(plan.config.teacher, compute.device), plan.tiers().text
    _create(plan, text, "extract")
    stage.write_text(teacher, plan.prompts, plan.train_data, text)
    return OnlineTeacher(teacher, plan.cache_recipe)


@suggesting
def evaluate(plan: Plan, machine: Machine, *, trackers: Sequence[Tracker] = ()) -> dict[str, Any]:
    """Scores of the student; `report` of the result is an EvalReport. `trackers` are told the scores.

    Of a run with a parent also `parent`, its name, and `since`, a list of `Change`, empty where it is not scored.
    """
    if not masks_changed(plan.address("eval"), plan.val_data) and (done := _done(plan, "eval")) is not None:
        report = read_report(plan.address("eval"))
        if trackers and report is not None:
            _tell(plan, report, machine, trackers)
        return done | {"report": report, **_since(plan, report)}
    _prepare_scoring(plan, machine)
    from stages import evaluate as stage

    report = stage.run(
        plan.scoring,
        plan.val_data,
        plan.tiers().text,
        plan.address("train"),
        plan.address("eval"),
        train=plan.train_data,
        compute=machine.compute,
    )
    _tell(plan, report, machine, trackers)
    _report(plan, "eval", plan.address("train"))
    return _result("eval", False, report.summary, plan.address("eval")) | {"report": report, **_since(plan, report)}


def _since(plan: Plan, report: EvalReport | None) -> dict[str, Any]:
    """`since`: what changed since the run that training started from, where that one was scored likewise."""
    from pipeline.study.references import parent_report
    from stages.parts.scoring.since import changes

    if plan.parent is None or report is None:
        return {}
    before = parent_report(plan.parent.at, report)
    return {"parent": plan.parent.name, "since": changes(before, report) if before else []}


def _tell(plan: Plan, report: EvalReport, machine: Machine, trackers: Sequence[Tracker]) -> None:
    if rank_and_world()[0] == 0:
        from pipeline.study.watching import show_scores

        show_scores(plan, report, machine.compute.device, trackers)


@suggesting
def bias_curve(plan: Plan, machine: Machine, also: Sequence[float] = ()) -> list[Point]:
    """The student's scores over the seen bias, at those of `also` too, from one pass over the evaluation images."""
    _prepare_scoring(plan, machine)
    from stages import calibrate as stage

    return stage.run_curve(
        plan.scoring, plan.val_data, plan.tiers().text, plan.address("train"), also, compute=machine.compute
    )


@suggesting
def risk_curve(plan: Plan, machine: Machine, data: Dataset, which: Which) -> RiskCurve:
    """Risk-coverage of the student on the labels `which` (seen, all) of photos of this data set."""
    _prepare_scoring(plan, machine)
    from stages import calibrate as stage

    text, student = plan.tiers().text, plan.address("train")
    return stage.run_risk(plan.scoring, data, text, student, which, compute=machine.compute)


@suggesting
def evaluate_transfer(plan: Plan, words: Plan, data: Dataset, at: Location, on: str, machine: Machine) -> EvalReport:
    """Scores of the student on another data set; the artifact `text` of `words` has its names, or gets them."""
    from stages import evaluate as stage

    if (text := words.tiers().text).summary(1) is None:
        from stages import extract
        from stages.parts.teacher.teacher import load_teacher

        teacher = load_teacher(plan.config.teacher, machine.compute.device)
        _create(words, text, "extract")
        extract.write_text(teacher, plan.prompts, words.train_data, text)
    _embed_texts(words, data.vocabulary, machine)
    return stage.run_transfer(
        plan.config.eval.of_words(data.vocabulary.several),
        data,
        (text, words.vocabulary.ordered),
        plan.address("train"),
        at,
        on,
        compute=machine.compute,
    )


@suggesting
def evaluate_teacher(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Scores of the teacher, training-free; loads CLIP. `report` of the result is an EvalReport."""
    at = plan.address("teacher")
    if (mark := at.get_mark("complete.json")) is not None and not masks_changed(at, plan.val_data):
        return _result("eval", True, mark.get("summary", {}), at) | {"report": read_report(at)}
    _prepare_scoring(plan, machine)
    from stages import evaluate as stage

    report = stage.run_teacher(
        plan.scoring,
        plan.cache_recipe,
        plan.val_data,
        plan.tiers().text,
        at,
        train=plan.train_data,
        compute=machine.compute,
    )
    return _result("eval", False, report.summary, at) | {"report": report}


@suggesting
def verify_teacher(plan: Plan, machine: Machine, sample: int) -> dict[str, Any]:
    """A sample of cached views encoded again and compared; loads CLIP."""
    draw_world(plan)
    from stages import verify as stage

    return stage.run(plan.cache_recipe, plan.train_data, plan.tiers(), sample=sample, compute=machine.compute)


def masks_changed(at: Location, data: Dataset) -> bool:
    """Whether masks were edited since the evaluation at `at`, which is said: no label moves an address."""
    scored = (at.get_mark("complete.json") or {}).get("masks", "")
    if not scored or scored == data.masks_digest:
        return False
    if rank_and_world()[0] == 0:
        say(f"eval: masks of evaluation photos changed since {at} was scored; it is scored again")
    return True


def _prepare_scoring(plan: Plan, machine: Machine) -> None:
    """What scores are made from beside the network that is scored.

    Raises InputError where no evaluation photo has a mask, or no mask a background, to compare with.
    """
    plan.check_background()
    if plan.val_data.unlabelled:
        raise InputError(
            f"{plan.data_config.root}: no evaluation photo has a mask, so nothing can be scored; `clip2seg predict` "
            "shows what the student finds"
        )
    _embed_texts(plan, plan.vocabulary, machine)
    draw_world(plan)


def _embed_texts(plan: Plan, words: Vocabulary, machine: Machine) -> None:
    """Where the best of a class's texts counts, embeds each of them, once; that needs the teacher's text tower."""
    if plan.config.eval.of_words(words.several).synonyms == "mean":
        return
    from stages.parts.teacher.teacher import load_text_tower
    from stages.running.scoring.texts import embedded

    def encode() -> Encode:
        return load_text_tower(plan.config.teacher, machine.compute.device).encode

    embedded(plan.artifact("text"), words.words, plan.prompts, encode)


def _create(plan: Plan, artifact: Artifact, stage: str) -> None:
    artifact.create(plan.provenance(artifact.kind, stage))


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
