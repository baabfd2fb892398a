"""What an evaluation is compared with: the teacher without training, the baseline, and the run that it started from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from cache.headers import about_at
from cache.location import Location, StoreError
from pipeline.study.runs import Run, run_at
from stages.parts.eval_report import EvalReport
from stages.parts.settings import EvaluateConfig
from stages.running.scoring.reports import read_report

if TYPE_CHECKING:
    from stages.report import Scored

_OF_DISTILLATION = ("tokens", "latent", "distill", "latent-embedding")
"""Ingredients of a run that its baseline doesn't have."""


def with_references(run: Run) -> list[Scored]:
    """The evaluations of a run, those of most images first, each with its references that are scored."""
    from stages.report import Scored

    beside = [report for name in run.at.parent.children() if (report := _report(run.at.parent.child(name)))]
    own = {k: v for k, v in _ingredients(run.about).items() if k not in _OF_DISTILLATION}
    # By the folders' names: artifacts may have moved since.
    names = {_name(report) for report in beside} - {"", run.at.name}
    baselines = {name for name in names if own and _ingredients(_about(run.at.parent.child(name))) == own}
    parent = run.at.parent.parent.child(run.parent) if run.parent else None
    found = []
    for at, report in run.evaluations:
        alike = [other for other in beside if _question(other) == _question(report)]
        of_teacher = _question(report, report.settings.of_teacher())
        teacher = next((other for other in beside if not other.run and _question(other) == of_teacher), None)
        baseline = next((other for other in alike if _name(other) in baselines), None)
        found.append(Scored(at, report, teacher, baseline, parent_report(parent, report) if parent else None))
    return found


def parent_report(parent: Location, report: EvalReport) -> EvalReport | None:
    """How the run that another one started from was scored on the same images by the same rules, if it was."""

    def asked(one: EvalReport) -> dict[str, Any]:
        return {k: v for k, v in _question(one).items() if k != "split_hash"}

    return next((r for _, r in run_at(parent).evaluations if asked(r) == asked(report)), None)


def _report(at: Location) -> EvalReport | None:
    try:
        return read_report(at) if at.name.startswith(("eval-", "teacher-")) else None
    except InputError:  # another version's, or damaged: `runs` names it
        return None


def _question(report: EvalReport, settings: EvaluateConfig | None = None) -> dict[str, Any]:
    """What was asked, by the report's settings or other ones: reports that agree in it may be compared."""
    settings = settings or report.settings
    return report.model_dump(include={"data", "split_hash", "images", "on"}) | settings.fingerprint_fields()


def _name(report: EvalReport) -> str:
    """The folder's name of the run that a report scores; "" for the teacher's."""
    return report.run.rstrip("/").rpartition("/")[2]


def _about(at: Location) -> dict[str, Any]:
    try:
        return about_at(at, "student.safetensors") or {}
    except StoreError:
        return {}


def _ingredients(about: dict[str, Any]) -> dict[str, Any]:
    found = about.get("provenance", {}).get("ingredients", {})
    return found if isinstance(found, dict) else {}
