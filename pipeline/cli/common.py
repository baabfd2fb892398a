"""What the commands share: options declared once, and the helpers that turn them into objects and print results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from cache.errors import printable
from pipeline.invocation import ARTIFACTS_FOLDER as ARTIFACTS_FOLDER  # the default of --artifacts
from pipeline.shown import coloured, open_page

if TYPE_CHECKING:
    from pipeline.machine import Machine
    from pipeline.plan import Plan
    from pipeline.use.student import Student

Preset = Annotated[str, typer.Argument(help="A shipped preset's name, or a path to a TOML file.")]
Data = Annotated[str, typer.Option("--data", help="The data set's folder; overrides data.root.")]
Artifacts = Annotated[
    str, typer.Option("--artifacts", help="Where caches and runs go: a folder, or s3://bucket/prefix.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", metavar="auto|cpu|cuda")]
Workers = Annotated[int, typer.Option("--workers", help="Loader processes; -1: one per core but one.")]
Set = Annotated[list[str], typer.Option("--set", help="Override a setting: table.key=value. Repeatable.")]
From = Annotated[
    str,
    typer.Option("--from", help="Start from this finished run's student: --set student.parent=RUN.", metavar="RUN"),
]
Seeds = Annotated[int, typer.Option("--seeds", help="Seeds per row; mean and sd are given.")]
Markdown = Annotated[str, typer.Option("--markdown", help="Put the table into this file, between its markers.")]
Kmeans = Annotated[
    str, typer.Option("--kmeans", help="Where faiss clusters: auto (the GPU, if there is one), gpu or cpu.")
]
Wandb = Annotated[
    str, typer.Option("--wandb", help="Mirror TensorBoard to this Weights & Biases project.", metavar="PROJECT")
]
Mlflow = Annotated[
    str, typer.Option("--mlflow", help="Mirror TensorBoard to this MLflow experiment.", metavar="EXPERIMENT")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout; of an error too.")]
Open = Annotated[bool, typer.Option("--open", help="Show the page or picture in a browser.")]
SeenBias = Annotated[float, typer.Option("--seen-bias", help="Subtracted from classes seen in training.")]
Classes = Annotated[
    str,
    typer.Option(
        "--classes",
        help='"sheep, sofa | couch, car = a parked car", or a FILE of them. Default: the trained vocabulary.',
    ),
]
Synonyms = Annotated[
    str,
    typer.Option("--synonyms", help="Of a class of several words: their mean, or the best.", metavar="mean|max"),
]
Teacher = Annotated[
    str,
    typer.Option("--teacher", help="A teacher: an open_clip name, hf-hub:OWNER/NAME or local-dir:FOLDER."),
]


def make_plan(preset: str, data: str, artifacts: str, overrides: Sequence[str]) -> Plan:
    """The plan of a preset under the common options. Raises InputError."""
    from pipeline.plan import Plan

    return Plan.open(preset, overrides, artifacts, data)


def with_parent(overrides: Sequence[str], parent: str) -> list[str]:
    """Overrides with what `--from` stands for."""
    return [*overrides, *([f"student.parent={json.dumps(parent)}"] if parent else [])]


def make_machine(device: str, workers: int) -> Machine:
    """Device and loader processes as asked for. Raises InputError for a device or a number that there is not."""
    from pipeline.machine import Machine

    return Machine(device, workers)


def open_student(run: str, artifacts: str, data: str, device: str, teacher: str) -> Student:
    """The student that `--run` names."""
    from pipeline.config import load_config, shipped
    from pipeline.study.runs import resolve_run

    machine = make_machine(device, 0)
    found, pretrained = resolve_run(run, artifacts, data), ""
    if not teacher and (run.endswith(".toml") or run in shipped()):
        named = load_config(run).teacher  # by the user's own preset, not by the run's file
        teacher, pretrained = named.model, named.pretrained
    from pipeline.use.student import load_student

    _ = machine.compute  # prepares this process, which `load_student` leaves as it is
    student = load_student(found, device=device, teacher=teacher, pretrained=pretrained)
    student.word_source, student.teacher_source = "--classes", "--teacher {}"
    return student


def emit(text: str, result: Mapping[str, Any], as_json: bool) -> None:
    """Prints a result: text for people and, with --json, one JSON object as the last line."""
    from stages.parts.processes import rank_and_world

    if rank_and_world()[0] > 0:  # of the processes that torchrun started one speaks
        return
    print(coloured(printable(text)))
    if as_json:
        print(json.dumps(result, sort_keys=True, default=_plain))


def show(address: str) -> None:
    """--open: the page or picture in a browser; what stands in the way is said on stderr."""
    from stages.running.progress import say

    if problem := open_page(address):
        say(problem)


def _plain(value: object) -> object:
    """What JSON has no type for: models by their fields, everything else as text."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
