"""Panel Experiments of `clip2seg --help`: tables, sweeps, runs, benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pipeline.cli.common import (
    ARTIFACTS_FOLDER,
    Artifacts,
    Data,
    Device,
    Json,
    Markdown,
    Open,
    Preset,
    Seeds,
    Set,
    Workers,
    emit,
    make_machine,
    make_plan,
    show,
)
from pipeline.invocation import Invocation

PANEL = "Experiments"
app = typer.Typer()

Chart = Annotated[str, typer.Option("--chart", help="Draw the table as bars with error bars: FILE.svg or FILE.png.")]


def _check_files(markdown: str, chart: str) -> None:
    """Raises InputError for files that could not be written hours later."""
    from pipeline.study.ablate import chart_file
    from pipeline.text import markdown_page

    markdown_page(markdown)
    if chart:
        chart_file(chart)


def _written(title: str, rows: Sequence[Mapping[str, Any]], key: str, markdown: str, chart: str) -> str:
    """A table as text, put into the files that were asked for."""
    from pipeline.study.ablate import table_markdown, table_scores, table_text, write_chart
    from pipeline.text import write_markdown

    if markdown:
        write_markdown(markdown, key, table_markdown(title, rows))
    if chart:
        write_chart(chart, title, table_scores(rows))
    return table_text(title, rows)


@contextmanager
def _finished_rows_shown(title: str) -> Iterator[None]:
    """Where rows fail, the table of the others is printed before that is said; it enters no file."""
    from pipeline.study.ablate import RowsFailedError, table_text

    try:
        yield
    except RowsFailedError as error:
        if error.rows:
            emit(table_text(f"{title}, the finished rows", error.rows), {}, False)
        raise


@app.command(rich_help_panel=PANEL)
def ablate(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    table: Annotated[int, typer.Option("--table", help="The paper's table: 3, 4, 5 or 6.")] = 3,
    seeds: Seeds = 1,
    markdown: Markdown = "",
    chart: Chart = "",
    as_json: Json = False,
) -> None:
    """Train and score an ablation table of the paper.

    All rows share one cache.
    """
    from pipeline.study.ablate import run_table

    _check_files(markdown, chart)
    typed = Invocation(preset, artifacts, data, tuple(set_))
    with _finished_rows_shown(f"{preset}, Table {table}"):
        rows = run_table(typed, table, seeds, make_machine(device, workers))
    key = f"{preset} table {table} {' '.join(set_)}".strip()
    text = _written(f"{preset}, Table {table}", rows, key, markdown, chart)
    emit(text, {"table": table, "rows": rows}, as_json)


@app.command(rich_help_panel=PANEL)
def sweep(
    preset: Preset = "demo",
    over: Annotated[
        list[str], typer.Option("--over", help='A setting and its values: "pixel-loss.beta=5;10;20". Repeatable.')
    ] = [],
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    seeds: Seeds = 1,
    markdown: Markdown = "",
    chart: Chart = "",
    as_json: Json = False,
) -> None:
    """Train and score combinations of settings.

    All rows share one cache. Meant for the settings that the paper does not publish.
    """
    from pipeline.study.ablate import run_rows, sweep_rows

    _check_files(markdown, chart)
    typed = Invocation(preset, artifacts, data, tuple(set_))
    with _finished_rows_shown(f"{preset}, sweep"):
        rows = run_rows(typed, sweep_rows(over), seeds, make_machine(device, workers))
    text = _written(f"{preset}, sweep", rows, f"{preset} sweep {' '.join([*over, *set_])}", markdown, chart)
    emit(text, {"over": over, "rows": rows}, as_json)


@app.command(rich_help_panel=PANEL)
def calibrate(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    hold_out: Annotated[
        str, typer.Option("--hold-out", help="Seen classes, between commas; default: some from frequent to rare.")
    ] = "",
    keep: Annotated[
        float,
        typer.Option(
            "--keep",
            help="Instead the threshold of `none of these`: it keeps so many % of seen classes' pixels, 95 say.",
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Fit a seen bias without unseen labels.

    On seen classes held out of a second training; with the curve of hIoU over the bias. With --keep a threshold.
    """
    from cache.errors import InputError
    from pipeline.study import calibration, threshold

    names = [name.strip() for name in hold_out.split(",") if name.strip()]
    plan = make_plan(preset, data, artifacts, set_)
    if keep and names:
        raise InputError(f"--hold-out {hold_out}: is for the seen bias; leave it or --keep out")
    if keep:
        kept = threshold.fit(plan, make_machine(device, workers), keep)
        emit(threshold.as_text(plan, keep, kept), threshold.as_json(kept), as_json)
        return
    found = calibration.calibrate(plan, make_machine(device, workers), names)
    emit(calibration.as_text(plan.name, found), calibration.as_json(found), as_json)


@app.command(rich_help_panel=PANEL)
def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            help="extract, mine-latent, train, loader, cache, inference, precision, pixel-loss, allocator, "
            "recipes, growth, added-photos, scale, efficiency, inference-compiled; all: every one of these; on a GPU: "
            "gpu-check (does it compute what a CPU does?), gpu (the record).",
            metavar="NAME",
        ),
    ],
    preset: Annotated[
        str,
        typer.Argument(
            help="A preset, or `photos`: drawn photos (`photos_voc`: of VOC's size), networks of full size; "
            "default: as published."
        ),
    ] = "",
    data: Data = "",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    images: Annotated[int, typer.Option("--images", help="Images to measure on; 0: the benchmark's own.", min=0)] = 0,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns each side takes; 0: its own.", min=0)] = 0,
    markdown: Markdown = "",
    as_json: Json = False,
) -> None:
    """Measure speed, memory or cost on this machine.

    One thing beside its limit, in one run: ratios of medians, with the machine they hold for.
    """
    from pipeline.benchmarks.suite import run_suite

    asked = {"preset": preset, "data": data, "set": set_, "images": images, "rounds": rounds}
    text, found = run_suite(name, asked, make_machine(device, workers), markdown)
    emit(text, found, as_json)
    if found.get("failed"):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def runs(
    preset: Annotated[str, typer.Argument(help="Only this preset's runs.")] = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    compare: Annotated[
        list[str], typer.Option("--compare", help="A run's name; give two or more: settings and scores that differ.")
    ] = [],
    html: Annotated[str, typer.Option("--html", help="--compare: also a page, into this file.", metavar="FILE")] = "",
    photos: Annotated[
        int, typer.Option("--photos", help="--html: evaluation photos of PRESET as each run sees them.", min=0)
    ] = 0,
    data: Data = "",
    device: Device = "auto",
    open_: Open = False,
    as_json: Json = False,
) -> None:
    """List runs with their scores, or compare some."""
    from pipeline.study import runs as tool

    check_page_options(preset, compare, html, photos, open_)
    found = tool.find_runs(artifacts, preset)
    if compare:
        chosen = tool.chosen(found, compare)
        compared = tool.compare(chosen)
        text = tool.compare_text(compared)
        if html:
            from pipeline.shown import link
            from pipeline.study import comparison

            file = comparison.checked_file(html)
            plan = make_plan(preset, data, artifacts, []) if photos else None
            shown = comparison.same_photos(plan, chosen, photos, make_machine(device, 0)) if plan else []
            comparison.write_page(chosen, compared, file, shown)
            text += f"\n\npage: {link(str(file))}"
        emit(text, compared, as_json)
        if open_:
            show(html)
    else:
        emit(tool.runs_text(found), {"runs": tool.runs_json(found)}, as_json)


def check_page_options(preset: str, compare: list[str], html: str, photos: int, open_: bool) -> None:
    """Raises InputError for an option of `runs` that would be ignored."""
    from cache.errors import InputError

    if html and not compare:
        raise InputError(f"--html {html}: it is the page of --compare; name two runs or more with that")
    for name, given in (("--photos", photos), ("--open", open_)):
        if given and not html:
            raise InputError(f"runs {name}: needs a page; add --html FILE")
    if photos and not preset:
        raise InputError(f"--photos {photos}: name the preset of the photos: `clip2seg runs PRESET`")
