"""Scores of a student and of its teacher, each computed once: opens what scoring reads, skips what is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from cache.location import Location
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.run import create, draw_world, report_at, result, result_there, suggesting
from stages.parts.processes import rank_and_world
from stages.running.progress import say
from stages.running.scoring.reports import read_report

if TYPE_CHECKING:
    from stages.parts.data.datasets import Dataset, Which
    from stages.parts.data.vocabulary import Vocabulary
    from stages.parts.eval_report import EvalReport
    from stages.parts.scoring.bias_curve import Point
    from stages.parts.scoring.risk import RiskCurve
    from stages.parts.teacher.texts import Encode
    from stages.running.board import Tracker


@suggesting
def evaluate(plan: Plan, machine: Machine, *, trackers: Sequence[Tracker] = ()) -> dict[str, Any]:
    """Scores of the student; `report` of the result is an EvalReport. `trackers` are told the scores.

    Of a run with a parent also `parent`, its name, and `since`, a list of `Change`, empty where it is not scored.
    """
    if not masks_changed(plan.address("eval"), plan.val_data) and (done := result_there(plan, "eval")) is not None:
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
    report_at(plan, "eval", plan.address("train"))
    return result("eval", False, report.summary, plan.address("eval")) | {"report": report, **_since(plan, report)}


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
        create(words, text, "extract")
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
        return result("eval", True, mark.get("summary", {}), at) | {"report": read_report(at)}
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
    return result("eval", False, report.summary, at) | {"report": report}


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
