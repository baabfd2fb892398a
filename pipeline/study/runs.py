"""`clip2seg runs`: the training runs under an artifacts folder, side by side; what differs between two of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.headers import about_at
from cache.location import Location, StoreError
from pipeline.ingredients import known_ingredients, spelled_out
from pipeline.places import Places
from pipeline.text import columns, flat, set_apart, short
from stages.parts.eval_report import EvalReport
from stages.running.progress import say
from stages.running.scoring.reports import read_report

SCORES = ("hIoU", "sIoU", "uIoU", "pixel_accuracy")
_NONE = "(not set)"
_WORDS = ("from", "split", "teacher")
"""Settings that belong to no table."""


@dataclass(frozen=True)
class Beside:
    """What lies beside the runs of a folder, read once for all of them."""

    folder: Location
    caches: Mapping[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    """Ingredients of the caches that they may have read, by digest (`known_ingredients`)."""

    @cached_property
    def evaluations(self) -> Mapping[str, list[tuple[Location, EvalReport]]]:
        """The evaluations of each run by the name of its folder, those of most images first: folder and report."""
        found: dict[str, list[tuple[Location, EvalReport]]] = {}
        for name in self.folder.children():
            if not name.startswith("eval-"):
                continue
            try:
                report = read_report(self.folder.child(name))
            except InputError as error:  # another version's; the runs beside it are still worth a list
                say(f"left out: {error}")
                continue
            if report:
                run = report.run.rstrip("/").rpartition("/")[2]
                found.setdefault(run, []).append((self.folder.child(name), report))
        return {run: sorted(own, key=lambda pair: -pair[1].images) for run, own in found.items()}


@dataclass(frozen=True)
class Run:
    """One training run: its folder, and what lies beside it."""

    preset: str
    at: Location
    beside: Beside

    @property
    def name(self) -> str:
        """`<preset>/train-<fingerprint>`: what `--compare` takes."""
        return f"{self.preset}/{self.at.name}"

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the checkpoint's header says; empty where there is none yet."""
        try:
            return about_at(self.at, "student.safetensors") or {}
        except StoreError:  # a list shows what it can
            return {}

    @property
    def parent(self) -> str:
        """The name of the run that it started from; "" where it began anew, or its file says nonsense."""
        named = str(self.about.get("provenance", {}).get("parent", ""))
        return named if re.fullmatch(r"[^/\\]*[^/\\.][^/\\]*/train-[0-9a-f]+", named) else ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every ingredient of the run, and of its cache where that is there: `train.lr` -> 0.0003."""
        provenance = self.about.get("provenance", {})
        made = provenance.get("ingredients", {})
        found = dict(flat(spelled_out(made, self.beside.caches))) | dict(flat(made))
        if self.parent:
            found |= {"from": self.parent}
            found.pop("student.parent", None)  # its digest
        return {**found, "split": provenance.get("split"), "teacher": provenance.get("teacher", {}).get("model")}

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """Summary of a finished run; None while it isn't."""
        try:
            mark = self.at.get_mark("complete.json")
        except StoreError:  # a list shows what it can; `cache verify` names what is damaged
            return None
        if mark is None:
            return None
        summary = mark.get("summary")
        return summary if isinstance(summary, dict) else {}

    @property
    def evaluations(self) -> list[tuple[Location, EvalReport]]:
        """The evaluations of this run, those of most images first: folder and report."""
        return self.beside.evaluations.get(self.at.name, [])

    @cached_property
    def date(self) -> str | None:
        """When the run ended, or last saved its student: UTC, to the minute."""
        try:
            when = self.at.modified("complete.json") or self.at.modified("student.safetensors")
        except StoreError:
            return None
        return when and when[:16]

    @property
    def state(self) -> str:
        """finished, or how far it is."""
        if self.summary is not None:
            return "finished"
        return f"at {self.about['iteration']}" if "iteration" in self.about else "begun"


def find_runs(artifacts: str, preset: str = "") -> list[Run]:
    """The runs under an artifacts folder, by preset and name; `preset` is a name or a preset's path.

    Raises InputError where there is no such folder.
    """
    preset = Path(preset).stem if preset else ""
    if "://" not in artifacts and not Path(artifacts).expanduser().is_dir():
        raise InputError(f"--artifacts {artifacts}: no such folder; `clip2seg train` makes runs there")
    root = Location(artifacts)
    presets = root.children()
    if preset and preset not in presets:
        raise InputError(f"preset {preset!r}: nothing of it under {root}; there is: {', '.join(presets) or 'nothing'}")
    caches = known_ingredients(Places(artifacts, preset))
    folders = {name: Beside(root.child(name), caches) for name in ([preset] if preset else presets)}
    return [
        Run(name, beside.folder.child(child), beside)
        for name, beside in folders.items()
        for child in beside.folder.children()
        if child.startswith("train-")
    ]


def run_at(at: Location) -> Run:
    """The run in a folder."""
    return Run(at.parent.name, at, Beside(at.parent))


def runs_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The runs as JSON."""
    return [
        {
            "run": run.name,
            "address": str(run.at),
            "state": run.state,
            "date": run.date,
            "student": run.about.get("student"),
            "parent": run.parent or None,
            "settings": run.settings,
            "summary": run.summary,
            "evaluations": [
                {"address": str(at), "data": r.data, "images": r.images, **r.model_dump(include={*SCORES})}
                for at, r in run.evaluations
            ],
            "report": f"{run.at}/report.html" if run.at.get("report.html") else None,
        }
        for run in runs
    ]


def runs_text(runs: Sequence[Run]) -> str:
    """The runs as a table, one row per evaluation, the newest first, with what sets each apart within its preset."""
    if not runs:
        return "no run yet; `clip2seg train PRESET` makes one"
    rows: list[list[object]] = [
        ["run", "date (UTC)", "student", "state", "iterations", "images", *SCORES[:3], "pixel acc.", "differs in"]
    ]
    differing: dict[str, str] = {}
    for preset in {run.preset for run in runs}:
        # Digests of what a run read have no dot in their key and follow from the settings: `--compare` has them.
        beside = {run.name: run.settings for run in runs if run.preset == preset and run.about}
        shown = {
            name: {k: v for k, v in settings.items() if "." in k or k in _WORDS} for name, settings in beside.items()
        }
        differing |= set_apart(shown, ("distill", "latent-embedding"))
    for run in sorted(runs, key=lambda run: run.date or "", reverse=True):
        student = run.about.get("student", {})
        network = f"{student.get('arch')}+{student.get('encoder')}" if student else None
        head = [run.name, run.date, network, run.state, (run.summary or {}).get("iterations")]
        scored = [[r.images, *(getattr(r, k) for k in SCORES)] for _, r in run.evaluations]
        rows += [[*head, *more, differing.get(run.name, "")] for more in scored or [[None] * (1 + len(SCORES))]]
    return columns([[*row[:-1], f" {row[-1]}"] for row in rows], left=4, last_left=1)


def chosen(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Two or more runs by name. Raises InputError for a name that fits no run, or many."""
    if len(names) < 2:
        raise InputError("--compare: name two runs or more: --compare train-1a2b --compare train-3c4d")
    return [_one(runs, name) for name in names]


def compare(chosen: Sequence[Run]) -> dict[str, Any]:
    """The settings in which runs differ, and their scores."""
    keys = sorted({key for run in chosen for key in run.settings})
    settings = {key: [run.settings.get(key, _NONE) for run in chosen] for key in keys}
    scored = [run.evaluations[0][1] if run.evaluations else None for run in chosen]
    classes = [{c.name: c.IoU for c in report.classes} if report else {} for report in scored]
    return {
        "runs": [run.name for run in chosen],
        "settings": {k: v for k, v in settings.items() if any(x != v[0] for x in v)},
        "scores": {key: [getattr(report, key, None) for report in scored] for key in ("images", *SCORES)},
        "classes": {name: [c.get(name) for c in classes] for name in dict.fromkeys(n for c in classes for n in c)},
    }


def compare_text(found: Mapping[str, Any]) -> str:
    """The comparison as a table."""
    rows: list[list[object]] = [["", *found["runs"]]]
    rows += [[key, *values] for key, values in found["scores"].items()]
    rows += [[f"IoU {name}", *values] for name, values in found["classes"].items()]
    differing = [[key, *(short(v) for v in values)] for key, values in found["settings"].items()]
    rows += [["", *("" for _ in found["runs"])], *(differing or [["settings: equal", *("" for _ in found["runs"])]])]
    return columns(rows)


def _one(runs: Sequence[Run], name: str) -> Run:
    fitting = [run for run in runs if run.name == name or run.at.name.startswith(name)]
    if len(fitting) != 1:
        known = ", ".join(run.name for run in (fitting or runs)[:6]) or "none"
        raise InputError(f"--compare {name}: fits {len(fitting)} runs; name one of: {known}")
    return fitting[0]


def resolve_run(run: str, artifacts: str, data: str) -> str:
    """Where a run lies: RUN is a run folder, a student file, `<preset>/train-<fingerprint>`, or a preset.

    A preset stands for the run of its settings. Raises InputError where none of these is there.
    """
    from pipeline.config import shipped
    from pipeline.plan import Plan

    if "://" in run or (Path(run).expanduser().exists() and not run.endswith(".toml")):
        return run
    if run.endswith(".toml") or run in shipped():
        plan = Plan.open(run, (), artifacts, data)
        at = plan.address("train")
        if at.get("student.safetensors") is None:
            command = plan.invocation.command("train")
            raise InputError(f"preset {run}: no trained student at {at}; run `{command}` first")
        return str(at)
    if "://" not in artifacts and (found := Path(artifacts).expanduser() / run).is_dir():
        return str(found)
    raise InputError(f"run {run!r}: no such folder, student file or preset; `clip2seg runs` lists the runs")
