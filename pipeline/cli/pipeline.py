"""Panel Pipeline of `clip2seg --help`: the demo, the plan and one command for each stage."""

from __future__ import annotations

from typing import Annotated

import typer

from cache.errors import InputError
from pipeline.cli.common import (
    ARTIFACTS_FOLDER,
    Artifacts,
    Data,
    Device,
    From,
    Json,
    Kmeans,
    Mlflow,
    Preset,
    Set,
    Wandb,
    Workers,
    emit,
    make_machine,
    make_plan,
    with_parent,
)

PANEL = "Pipeline"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def demo(
    preset: Preset = "demo",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on a generated world.

    extract, mine-latent, train and eval with the reference rows, on the embedded preset.
    """
    from pipeline.study.demo import run_demo

    emit(*run_demo(preset, artifacts, set_, make_machine(device, workers)), as_json)


@app.command(rich_help_panel=PANEL)
def plan(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    from_: From = "",
    for_: Annotated[
        str,
        typer.Option(
            "--for",
            help="Estimate bytes, arithmetic and hours for a shipped vocabulary's data set, or a number of images.",
            metavar="coco_stuff|1e8",
        ),
    ] = "",
    regions: Annotated[float, typer.Option("--regions", help="--for: seen classes in a view.", min=0)] = 8,
    as_json: Json = False,
) -> None:
    """Show addresses, what is done, what would run.

    With --for: what another data set or size would cost.
    """
    if for_:
        from pipeline.config import load_config, preset_name
        from pipeline.study.estimate import estimate, estimate_text

        found = estimate(load_config(preset, set_), for_, regions, make_machine(device, workers))
        emit(estimate_text(preset_name(preset), found), found, as_json)
        return
    from pipeline.text import plan_table, steps_json

    make_machine(device, workers)  # refuses what no stage would take
    made = make_plan(preset, data, artifacts, with_parent(set_, from_))
    emit(plan_table(made), steps_json(made), as_json)


@app.command(rich_help_panel=PANEL)
def extract(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Run the teacher once and store its tokens.

    Writes global and local CLS tokens, dense tokens and text embeddings.
    """
    from pipeline import run
    from pipeline import text as report

    made = make_plan(preset, data, artifacts, set_)
    result = run.extract(made, make_machine(device, workers))
    emit(report.extract_text(made.invocation, result), result, as_json)


@app.command("mine-latent", rich_help_panel=PANEL)
def mine_latent(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    kmeans: Kmeans = "auto",
    as_json: Json = False,
) -> None:
    """Mine latent classes from the dense tokens.

    Clusters unannotated dense tokens into pseudo masks of latent classes, and adds their local CLS tokens.
    """
    from pipeline import run
    from pipeline import text as report

    result = run.mine_latent(make_plan(preset, data, artifacts, set_), make_machine(device, workers), kmeans=kmeans)
    emit(report.mine_text(result), result, as_json)


@app.command("mine-concepts", rich_help_panel=PANEL)
def mine_concepts(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    set_: Set = [],
    kmeans: Kmeans = "auto",
    as_json: Json = False,
) -> None:
    """Find the data set's own concepts.

    Clusters the latent regions of all images together and says of each region which concept it shows.
    """
    from pipeline import run
    from pipeline import text as report

    result = run.mine_concepts(make_plan(preset, data, artifacts, set_), make_machine(device, 0), kmeans=kmeans)
    emit(report.concepts_text(result), result, as_json)


@app.command("pseudo-label", rich_help_panel=PANEL)
def pseudo_label(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Label photos by the teacher alone.

    Cells get the seen name that the teacher is sure of; training reads them by pixel-loss.pseudo_weight.
    """
    from pipeline import run
    from pipeline import text as report

    made = make_plan(preset, data, artifacts, set_)
    result = run.pseudo_label(made, make_machine(device, workers))
    emit(report.pseudo_label_text(made.vocabulary.seen, result), result, as_json)


@app.command(rich_help_panel=PANEL)
def train(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    from_: From = "",
    compile_: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="torch.compile student and pixel loss; unless said: the pixel loss, on a GPU where it pays.",
        ),
    ] = None,
    online: Annotated[
        bool, typer.Option("--online-teacher", help="No cache: CLIP in the loop, to prove and measure the cache.")
    ] = False,
    wandb: Wandb = "",
    mlflow: Mlflow = "",
    as_json: Json = False,
) -> None:
    """Train the student from labels and cache.

    CLIP is not loaded, unless --online-teacher asks for it.
    """
    from pipeline import run
    from pipeline import text as report
    from pipeline.study.tracking import tracked

    made, machine = make_plan(preset, data, artifacts, with_parent(set_, from_)), make_machine(device, workers)
    with tracked(made, wandb=wandb, mlflow=mlflow) as trackers:
        result = run.train(made, machine, compiled=compile_, online=online, trackers=trackers)
    emit(report.train_text(result), result, as_json)


@app.command("eval", rich_help_panel=PANEL)
def evaluate(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    from_: From = "",
    score_teacher: Annotated[
        bool, typer.Option("--score-teacher", help="Also score the teacher training-free (loads CLIP).")
    ] = False,
    on: Annotated[
        str, typer.Option("--on", help="Another preset: score on its images and names.", metavar="PRESET")
    ] = "",
    on_data: Annotated[str, typer.Option("--on-data", help="--on: that data set's folder.")] = "",
    wandb: Wandb = "",
    mlflow: Mlflow = "",
    as_json: Json = False,
) -> None:
    """Score the student: sIoU, uIoU, hIoU.

    Writes per-class IoU and a picture grid as well.
    """
    from pipeline import score
    from pipeline import text as report
    from pipeline.study.tracking import tracked

    made, machine = make_plan(preset, data, artifacts, with_parent(set_, from_)), make_machine(device, workers)
    if on:
        if wandb or mlflow:
            raise InputError("--on: scores of other data are no part of a tracked run; leave --wandb and --mlflow out")
        from pipeline.study.transfer import evaluate_on, transfer_text

        result = evaluate_on(made, make_plan(on, on_data, artifacts, []), machine)
        emit(transfer_text(made, result), result, as_json)
        return
    with tracked(made, wandb=wandb, mlflow=mlflow) as trackers:
        result = score.evaluate(made, machine, trackers=trackers)
    if score_teacher:
        result["teacher"] = score.evaluate_teacher(made, machine)["report"]
    emit(report.eval_text(made, result), result, as_json)
