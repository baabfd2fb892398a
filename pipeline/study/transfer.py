"""`clip2seg eval PRESET --on OTHER`: a student on another data set's images and vocabulary, without a further step.

ZegCLIP and OTSeg report it: trained on COCO-Stuff, scored on PASCAL Context. Every class of the other vocabulary is
named by the run's own teacher and prompts; it counts as seen where the student was trained on a class of that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from cache.digests import fingerprint
from cache.errors import InputError
from cache.location import Location
from pipeline import run, score
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.shown import link
from pipeline.text import background_text, columns
from stages.parts.data.datasets import Dataset
from stages.parts.eval_report import EvalReport, Means
from stages.running.scoring.reports import read_report


def evaluate_on(plan: Plan, other: Plan, machine: Machine) -> dict[str, Any]:
    """Scores the student of `plan` on the evaluation images of `other`; returns report and address.

    Loads the teacher where the other names are not embedded yet. Settings of [eval] are `plan`'s.
    """
    if plan.config.eval.background:
        other.vocabulary.check_background(f"eval --on {other.name}")
        if not plan.config.eval.background_threshold:
            raise InputError(
                f"eval --on {other.name}: eval.background needs a threshold here, since training photos have other "
                "names; give eval.background_threshold (`clip2seg calibrate --keep 95` fits one)"
            )
    run.draw_world(other)
    data, words = judged_data(plan, other), text_plan(plan, other)
    at = address(plan, words, data)
    if (report := read_report(at)) is None or score.masks_changed(at, data):
        report = score.evaluate_transfer(plan, words, data, at, other.name, machine)
    return {"stage": "eval", "address": str(at), "on": other.name, "report": report}


def judged_data(plan: Plan, other: Plan) -> Dataset:
    """The other evaluation images; the split is by name: seen is what the student was trained on."""
    data, words = other.val_data, other.val_data.vocabulary
    unseen = tuple(n for n in words.classes if n not in matched(words.classes, plan.vocabulary.seen))
    return replace(data, vocabulary=replace(words, unseen=unseen, split=f"names that {plan.name} was trained on"))


def text_plan(plan: Plan, other: Plan) -> Plan:
    """The plan whose artifact `text` has the other vocabulary's names as this run's teacher embeds them."""
    made = plan.variant()
    made.read_instead(train=replace(plan.train_data, vocabulary=other.vocabulary))
    return made


def address(plan: Plan, words: Plan, data: Dataset) -> Location:
    """Where the scores lie: beside the run's own evaluations."""
    ingredients: dict[str, Any] = {
        "train": plan.fingerprint("train"),
        "text": words.fingerprint("text"),
        "digest": data.digest,
        "labels": data.vocabulary.digest,
        "eval": plan.config.eval.of_words(data.vocabulary.several).fingerprint_fields(),
    }
    if plan.config.eval.background:
        ingredients["background"] = sorted(data.vocabulary.background)
    return plan.artifacts.child(f"transfer-{fingerprint(ingredients)}")


def matched(names: Iterable[str], trained: Iterable[str]) -> set[str]:
    """Those of `names` that `trained` has too, whatever their case, blanks and hyphens ("TV-monitor")."""
    known = {_plain(name) for name in trained}
    return {name for name in names if _plain(name) in known}


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def transfer_text(plan: Plan, result: Mapping[str, Any]) -> str:
    """Scores, then IoU per class."""
    report: EvalReport = result["report"]
    rows: list[list[object]] = [["", "hIoU", "sIoU", "uIoU", "pixel acc."]]
    parts: dict[str, Means] = {"": report, f", classes with {report.supported.min_pixels} pixels": report.supported}
    for label, part in parts.items():
        rows.append([f"{plan.name} on {report.on}{label}", part.hIoU, part.sIoU, part.uIoU, part.pixel_accuracy])
    classes: list[list[object]] = [["class", "", "IoU", "pixels"]]
    classes += [
        [c.name, "seen" if c.seen else "UNSEEN", c.IoU, c.pixels if c.support else "no support"] for c in report.classes
    ]
    seen = sum(c.seen for c in report.classes)
    return (
        f"eval: {report.images} images of {report.on}, {seen} of its {len(report.classes)} classes seen in "
        f"training -> {result['address']}\n\n{columns(rows)}\n\n{columns(classes, left=2)}\n\n"
        f"picture grid: {link(result['address'] + '/grid.png')}" + background_text({"this run": report.background})
    )
