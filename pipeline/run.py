"""Runs one stage of a plan: opens what it reads, skips it when it is done, hands over what it writes.

Scoring has a module of its own, `pipeline.score`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from cache.summary import per_view
from pipeline.ingredients import older_concepts
from pipeline.inspection.naming import naming
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.shown import link
from stages.parts.processes import rank_and_world
from stages.running.compute import Compute
from stages.running.progress import say

if TYPE_CHECKING:
    from stages.online import OnlineTeacher
    from stages.running.board import Tracker

P = ParamSpec("P")
R = TypeVar("R")


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
    if (done := result_there(plan, "extract")) is not None:
        _check_unedited(plan)
    else:
        done = _extracted(plan, machine)
    return done | {"naming": naming(plan.artifact("tokens"), plan.artifact("text"), plan.vocabulary.seen)}


def _extracted(plan: Plan, machine: Machine) -> dict[str, Any]:
    draw_world(plan)
    from stages import extract as stage

    tiers, c = plan.tiers(), plan.config
    wanted = [tiers.tokens, tiers.text]
    wanted += [tiers.dense] if c.extract.store_dense else []
    wanted += [tiers.affinity] if c.affinity.stored else []
    for artifact in wanted:
        create(plan, artifact, "extract")
    summary = stage.run(
        plan.cache_recipe, plan.train_data, plan.prompts, tiers, compute=machine.compute, earlier=plan.earlier()
    )
    return result("extract", False, summary, plan.address("tokens"))


@suggesting
def mine_latent(plan: Plan, machine: Machine, *, kmeans: str = "auto") -> dict[str, Any]:
    """Cell masks of latent classes and their local tokens. `kmeans`: where faiss clusters, auto, gpu or cpu."""
    if (done := result_there(plan, "mine-latent")) is not None:
        return done
    draw_world(plan)
    from stages import mine_latent as stage

    plan.reads_network()  # refuses settings whose features nothing names
    tiers = plan.tiers()
    create(plan, tiers.latent, "mine-latent")
    summary = stage.run(
        plan.cache_recipe,
        plan.train_data,
        tiers,
        compute=machine.compute,
        kmeans=kmeans,
        earlier=[one for one in plan.earlier() if one.same_seen],
    )
    return result("mine-latent", False, summary, plan.address("latent"))


@suggesting
def mine_concepts(plan: Plan, machine: Machine, *, kmeans: str = "auto") -> dict[str, Any]:
    """Concepts of the latent regions of the whole data set. `kmeans`: where faiss clusters, auto, gpu or cpu."""
    tiers = plan.tiers()
    if (done := finished("mine-concepts", tiers.membership.at)) is not None:
        return done
    from stages import mine_concepts as stage

    # Looked at before anything is made, so that a refused run leaves nothing.
    if tiers.latent.at.size("zarr.json") is None:
        raise InputError(f"{tiers.latent}: nothing mined; run `{plan.invocation.command('mine-latent')}` first")
    for artifact in (tiers.concepts, tiers.membership):
        create(plan, artifact, "mine-concepts")
    summary = stage.run(
        plan.config.mine_concepts, tiers, older_concepts(plan.config), compute=machine.compute, kmeans=kmeans
    )
    return result("mine-concepts", False, summary, plan.address("membership"))


@suggesting
def pseudo_label(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Pseudo labels of cells: the seen names that the teacher is sure of."""
    tiers = plan.tiers()
    if (done := finished("pseudo-label", tiers.pseudo.at)) is not None:
        return done
    draw_world(plan)
    from stages import pseudo_label as stage

    # Looked at before anything is made, so that a refused run leaves nothing.
    if tiers.tokens.at.size("zarr.json") is None:
        raise InputError(f"{tiers.tokens}: nothing extracted; run `{plan.invocation.command('extract')}` first")
    plan.reads_network()  # refuses settings whose features nothing names
    create(plan, tiers.pseudo, "pseudo-label")
    summary = stage.run(plan.config.pseudo_label, plan.cache_recipe, plan.train_data, tiers, compute=machine.compute)
    return result("pseudo-label", False, summary, plan.address("pseudo"))


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
    if (done := finished("train", at) if online else result_there(plan, "train")) is not None:
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
            plan.as_preset(),
        ),
        compute=compute,
        teacher=_online_teacher(plan, compute) if online else None,
    )
    report_at(plan, "train", at)
    return result("train", False, summary, at)


def report_at(plan: Plan, stage: str, at: Location) -> None:
    """Writes the HTML page of the run at `at` and says where it lies; the first process alone does."""
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
    create(plan, text, "extract")
    stage.write_text(teacher, plan.prompts, plan.train_data, text)
    return OnlineTeacher(teacher, plan.cache_recipe)


@suggesting
def verify_teacher(plan: Plan, machine: Machine, sample: int) -> dict[str, Any]:
    """A sample of cached views encoded again and compared; loads CLIP."""
    draw_world(plan)
    from stages import verify as stage

    return stage.run(plan.cache_recipe, plan.train_data, plan.tiers(), sample=sample, compute=machine.compute)


def create(plan: Plan, artifact: Artifact, stage: str) -> None:
    """Makes the root of an artifact that `stage` writes, with the plan's provenance, unless it is there."""
    artifact.create(plan.provenance(artifact.kind, stage))


def result_there(plan: Plan, stage: str) -> dict[str, Any] | None:
    """What a finished stage of the plan returned, which is said; None while something of it is to be done."""
    step = next(s for s in plan.steps() if s.stage == stage)
    return finished(stage, plan.address(step.writes[0])) if step.done else None


def finished(stage: str, at: Location) -> dict[str, Any] | None:
    """The same of a stage whose one artifact lies at `at`."""
    mark = at.get_mark("complete.json")
    if mark is None:
        return None
    say(f"{stage}: already complete at {at}; nothing to do")
    return result(stage, True, mark.get("summary", {}), at)


def result(stage: str, already: bool, summary: dict[str, Any], at: object) -> dict[str, Any]:
    """What every stage returns. `already`: whether it had nothing to do; `at`: where its artifact lies."""
    return {"stage": stage, "already_complete": already, "address": str(at), "summary": summary}
