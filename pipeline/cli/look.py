"""Panel Look of `clip2seg --help`: questions to the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.common import (
    ARTIFACTS_FOLDER,
    Artifacts,
    Data,
    Device,
    Json,
    Open,
    Preset,
    Set,
    emit,
    make_machine,
    make_plan,
    show,
)

PANEL = "Look"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def inspect(
    preset: Preset = "demo",
    question: Annotated[
        str,
        typer.Argument(
            help="summary, card (what to change before training), quality, mining, recipes, image, search, neighbours, "
            "duplicates, outliers, losses, explore, report, concepts.",
            metavar="[QUESTION]",
        ),
    ] = "summary",
    what: Annotated[str, typer.Argument(help="image: ID. search: TEXT. neighbours: ID:REGION.", metavar="[WHAT]")] = "",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    set_: Set = [],
    out: Annotated[str, typer.Option("--out", help="Folder for pictures; default: beside the artifacts.")] = "",
    count: Annotated[
        int,
        typer.Option(
            "--count",
            help="Hits to show; images in card, quality (0: all), mining, recipes; examples of a concept.",
            metavar="N",
        ),
    ] = -1,
    labels: Annotated[
        bool, typer.Option("--labels", help="Evaluation only: also read the labels of unseen classes.")
    ] = False,
    vocabulary: Annotated[
        str,
        typer.Option(
            "--vocabulary", help="quality, concepts: names for latent regions: a vocabulary, FILE.toml, FILE.txt."
        ),
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="explore: train (the cache), or val: prediction beside ground truth.")
    ] = "train",
    write: Annotated[
        bool, typer.Option("--write", help="mining: put the merge threshold that fits into the preset's file.")
    ] = False,
    open_: Open = False,
    as_json: Json = False,
) -> None:
    """Ask the cache how good teacher and mining are.

    `summary` loads no torch.
    """
    from cache.errors import InputError
    from pipeline.inspection.opened import Inspection
    from pipeline.inspection.questions import WITHOUT_PICTURE, ask

    if open_ and question in WITHOUT_PICTURE:
        raise InputError(f"inspect {question} --open: it draws nothing to show; leave --open out")
    if write and question != "mining":
        raise InputError(f"inspect {question} --write: only `mining` writes into a preset; leave --write out")
    ask_of = Inspection(make_plan(preset, data, artifacts, set_), make_machine(device, 0), out)
    with ask_of.plan.invocation.suggestions():
        text, found = ask(ask_of, question, what, count=count, full_labels=labels, vocabulary=vocabulary, split=split)
    if write:
        from pipeline.inspection.written import write_threshold

        found["written"] = write_threshold(preset, found["rows"], found["now"])
        text += f"\n{found['written']}"
    emit(text, found, as_json)
    if open_ and (address := found.get("file") or found.get("page") or found.get("picture")):
        show(address)
