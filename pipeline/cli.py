"""The command line: one command per stage and tool. No logic: it parses, calls, prints."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from cache.errors import InputError

app = typer.Typer(
    help="CLIP-to-Seg distillation: inductive zero-shot segmentation from a cached CLIP teacher.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Preset = Annotated[str, typer.Argument(help="A shipped preset's name, or a path to a TOML file.")]
Data = Annotated[str, typer.Option("--data", help="The data set's folder; overrides data.root.")]
Artifacts = Annotated[
    str, typer.Option("--artifacts", help="Where caches and runs go: a folder, or s3://bucket/prefix.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", metavar="auto|cpu|cuda")]
Workers = Annotated[int, typer.Option("--workers", help="Loader processes; -1: one per core but one.")]
Set = Annotated[list[str], typer.Option("--set", help="Override a setting: table.key=value. Repeatable.")]
Seeds = Annotated[int, typer.Option("--seeds", help="Seeds per row; mean and sd are given.")]
Markdown = Annotated[str, typer.Option("--markdown", help="Put the table into this file, between its markers.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"clip2seg {version('clip2seg')}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...


def _plan(preset: str, data: str, artifacts: str, overrides: list[str]) -> Any:
    from pipeline.config import load_config, preset_name
    from pipeline.plan import Plan

    return Plan(load_config(preset, overrides), preset_name(preset), artifacts, data)


def _machine(device: str, workers: int) -> Any:
    from pipeline.run import Machine

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device}: choose auto, cpu or cuda")
    if workers < -1:
        raise InputError(f"--workers {workers}: give 0 or more, or -1 for one per core but one")
    return Machine(device, workers)


def _say(text: str, result: dict[str, Any], as_json: bool) -> None:
    from stages.running.progress import rank_and_world

    if rank_and_world()[0] > 0:  # of the processes that torchrun started one speaks
        return
    print(text)
    if as_json:
        print(json.dumps(result, sort_keys=True, default=str))


@app.command()
def plan(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
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
    """The stages of a preset: their addresses, what is done and what would run; or what another size would cost."""
    if for_:
        from pipeline.config import load_config, preset_name
        from pipeline.study.estimate import estimate, estimate_text

        found = estimate(load_config(preset, set_), for_, regions, _machine(device, workers))
        _say(estimate_text(preset_name(preset), found), found, as_json)
        return
    from pipeline.text import plan_table, steps_json

    made = _plan(preset, data, artifacts, set_)
    _say(plan_table(made), steps_json(made), as_json)


@app.command()
def extract(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Run the teacher once: global and local CLS tokens, dense tokens, text embeddings."""
    from pipeline import run
    from pipeline import text as report

    result = run.extract(_plan(preset, data, artifacts, set_), _machine(device, workers))
    _say(report.extract_text(result), result, as_json)


@app.command("mine-latent")
def mine_latent(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Cluster unannotated dense tokens into pseudo masks of latent classes, and add their local CLS tokens."""
    from pipeline import run
    from pipeline import text as report

    result = run.mine_latent(_plan(preset, data, artifacts, set_), _machine(device, workers))
    _say(report.mine_text(result), result, as_json)


@app.command()
def train(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile the student.")] = False,
    online: Annotated[
        bool, typer.Option("--online-teacher", help="No cache: CLIP in the loop, to prove and measure the cache.")
    ] = False,
    wandb: Annotated[
        str, typer.Option("--wandb", help="Mirror the TensorBoard curves to this Weights & Biases project.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Train the student from labels and cache alone; CLIP is not loaded."""
    from pipeline import run
    from pipeline import text as report
    from pipeline.study.tracking import tracked

    made, machine = _plan(preset, data, artifacts, set_), _machine(device, workers)
    with tracked(wandb, made.name, made.config.model_dump(mode="json")):
        result = run.train(made, machine, compiled=compile_, online=online)
    _say(report.train_text(result), result, as_json)


@app.command("eval")
def evaluate(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Also score the teacher training-free (loads CLIP).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score the student alone: sIoU, uIoU, hIoU, per-class IoU, a picture grid."""
    from pipeline import run
    from pipeline import text as report

    made, machine = _plan(preset, data, artifacts, set_), _machine(device, workers)
    result = run.evaluate(made, machine)
    if teacher:
        result["teacher"] = run.evaluate_teacher(made, machine)["report"]
    _say(report.eval_text(made, result), result, as_json)


@app.command()
def ablate(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    table: Annotated[int, typer.Option("--table", help="The paper's table: 3, 4, 5 or 6.")] = 3,
    seeds: Seeds = 1,
    markdown: Markdown = "",
    as_json: Json = False,
) -> None:
    """Train and score the rows of one of the paper's ablation tables over one shared cache."""
    from pipeline.study.ablate import run_table, table_text
    from pipeline.text import markdown_page, write_markdown

    markdown_page(markdown)
    rows = run_table(preset, table, seeds, set_, data, artifacts, _machine(device, workers))
    text = table_text(f"{preset}, Table {table}", rows)
    if markdown:
        write_markdown(markdown, f"{preset} table {table} {' '.join(set_)}".strip(), text)
    _say(text, {"table": table, "rows": rows}, as_json)


@app.command()
def sweep(
    preset: Preset = "demo",
    over: Annotated[
        list[str], typer.Option("--over", help='A setting and its values: "pixel-loss.beta=5;10;20". Repeatable.')
    ] = [],
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    seeds: Seeds = 1,
    markdown: Markdown = "",
    as_json: Json = False,
) -> None:
    """Train and score every combination of some settings over one shared cache: the unpublished ones, above all."""
    from pipeline.study.ablate import run_rows, sweep_rows, table_text
    from pipeline.text import markdown_page, write_markdown

    markdown_page(markdown)
    rows = run_rows(preset, sweep_rows(over), seeds, set_, data, artifacts, _machine(device, workers))
    text = table_text(f"{preset}, sweep", rows)
    if markdown:
        write_markdown(markdown, f"{preset} sweep {' '.join([*over, *set_])}", text)
    _say(text, {"over": over, "rows": rows}, as_json)


@app.command()
def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            help="extract, mine-latent, train, cache, inference, precision, allocator, growth, scale, efficiency, "
            "inference-compiled; all: every one of these; gpu: the suite for one GPU.",
            metavar="NAME",
        ),
    ],
    preset: Annotated[
        str, typer.Argument(help="A preset, or `photos`: drawn photos, networks of full size; default: as published.")
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
    """Measure one thing beside its limit, in one run: ratios of medians, with the machine they hold for."""
    from pipeline.benchmarks.suite import run_suite

    asked = {"preset": preset, "data": data, "set": set_, "images": images, "rounds": rounds}
    _say(*run_suite(name, asked, _machine(device, workers), markdown), as_json)


@app.command()
def demo(
    preset: Preset = "demo",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    workers: Workers = -1,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """The whole pipeline on the embedded default: extract, mine-latent, train, eval, with the reference rows."""
    from pipeline.study.demo import run_demo

    _say(*run_demo(preset, artifacts, set_, _machine(device, workers)), as_json)


@app.command()
def teacher(
    out: Annotated[str, typer.Argument(help="Folder to write the open_clip model to.")] = "artifacts/demo_teacher",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option("--workers", help="Processes that draw scenes.")] = 2,
    as_json: Json = False,
) -> None:
    """Pre-train the demo world's own CLIP from captions alone (about a quarter of an hour on two cores)."""
    from pathlib import Path

    from stages.demo.teach import TeachConfig, run

    where = str(_machine(device, workers).torch_device())
    made = run(TeachConfig(), Path(out), device=where, workers=workers, say=lambda text: print(text, file=sys.stderr))
    _say(f"teacher -> {out}: zero-shot top-1 {100 * made.accuracy:.1f} %", vars(made), as_json)


@app.command()
def inspect(
    preset: Preset = "demo",
    question: Annotated[
        str,
        typer.Argument(
            help="summary, quality, mining, image, search, neighbours, duplicates, outliers, losses or explore.",
            metavar="[QUESTION]",
        ),
    ] = "summary",
    what: Annotated[str, typer.Argument(help="image: ID. search: TEXT. neighbours: ID:REGION.", metavar="[WHAT]")] = "",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    set_: Set = [],
    out: Annotated[str, typer.Option("--out", help="Folder for pictures; default: beside the artifacts.")] = "",
    count: Annotated[
        int, typer.Option("--count", help="Hits to show; images in quality (0: all), mining or explore.", metavar="N")
    ] = -1,
    labels: Annotated[
        bool, typer.Option("--labels", help="Evaluation only: also read the labels of unseen classes.")
    ] = False,
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", help="quality: names for latent regions: a vocabulary, FILE.toml, FILE.txt.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Ask the cache questions: is the teacher good, are the prompts, is the mining? `summary` loads no torch."""
    from pipeline.inspection.questions import Inspection, ask

    ask_of = Inspection(_plan(preset, data, artifacts, set_), _machine(device, 0), out)
    _say(*ask(ask_of, question, what, count=count, full_labels=labels, vocabulary=vocabulary), as_json)


Run = Annotated[
    str,
    typer.Option("--run", help="A run folder, a student file, PRESET/train-FINGERPRINT, or a preset."),
]
Classes = Annotated[
    str, typer.Option("--classes", help='Names between commas: "sheep, sofa, grass". Default: the trained vocabulary.')
]
TeacherAt = Annotated[
    str, typer.Option("--teacher", help="Where the run's teacher lies now, to embed names that the run doesn't know.")
]


def _student(run: str, artifacts: str, data: str, device: str, teacher: str) -> Any:
    _machine(device, 0)
    from pipeline.study.runs import resolve_run

    found = resolve_run(run, artifacts, data)
    from pipeline.use.student import load_student

    return load_student(found, device=device, teacher=teacher)


@app.command()
def predict(
    source: Annotated[str, typer.Argument(metavar="PICTURE|FOLDER|VIDEO", help="What to segment.")],
    run: Run,
    classes: Classes = "",
    out: Annotated[str, typer.Option("--out", help="The folder to write to.")] = "predictions",
    threshold: Annotated[float, typer.Option("--threshold", help="Background below this sigmoid score; 0: none.")] = 0,
    short_side: Annotated[int, typer.Option("--short-side", help="Pixels; 0: the run's training crop.")] = 0,
    mode: Annotated[str, typer.Option("--mode", help="One pass, tiles, or by size.", metavar="auto|whole|slide")] = (
        "auto"
    ),
    seen_bias: Annotated[float, typer.Option("--seen-bias", help="Subtracted from classes seen in training.")] = 0,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="Larger pictures are refused.")] = 100_000_000,
    teacher: TeacherAt = "",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Segment pictures, folders or a video: label PNGs, overlays, and a JSON of classes and areas."""
    from pipeline.use.predict import predict as run_predict
    from pipeline.use.predict import predict_text

    student = _student(run, artifacts, data, device, teacher)
    options = {"threshold": threshold, "short_side": short_side, "mode": mode, "seen_bias": seen_bias}
    result = run_predict(student, source, out, classes or None, options, max_pixels)
    _say(predict_text(result, out), result, as_json)


@app.command()
def export(
    run: Annotated[
        str, typer.Argument(help="A run folder, a student file, PRESET/train-FINGERPRINT, or a preset.", metavar="RUN")
    ],
    format_: Annotated[
        str, typer.Option("--format", help="What to write.", metavar="onnx|torch-export|safetensors")
    ] = "onnx",
    classes: Classes = "",
    out: Annotated[str, typer.Option("--out", help="The folder to write to.")] = "export",
    photos: Annotated[str, typer.Option("--photos", help="Photos to compare the export with PyTorch on.")] = "",
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset, 18 or more.")] = 18,
    seen_bias: Annotated[float, typer.Option("--seen-bias", help="Subtracted from classes seen in training.")] = 0,
    push_to_hub: Annotated[
        str, typer.Option("--push-to-hub", help="Upload to this Hugging Face repository.", metavar="OWNER/NAME")
    ] = "",
    teacher: TeacherAt = "",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    as_json: Json = False,
) -> None:
    """Write a student with its vocabulary as one file, checked against PyTorch, with a model card."""
    from pipeline.use.export import export as run_export
    from pipeline.use.export import export_text

    student = _student(run, artifacts, data, "cpu", teacher)
    result = run_export(
        student,
        classes or None,
        out,
        format=format_,
        photos=photos,
        opset=opset,
        seen_bias=seen_bias,
        push_to_hub=push_to_hub,
    )
    _say(export_text(result), result, as_json)


@app.command()
def runs(
    preset: Annotated[str, typer.Argument(help="Only this preset's runs.")] = "",
    artifacts: Artifacts = "artifacts",
    compare: Annotated[
        list[str], typer.Option("--compare", help="A run's name; give two or more: settings and scores that differ.")
    ] = [],
    as_json: Json = False,
) -> None:
    """List the training runs with their scores, or compare some."""
    from pipeline.study import runs as tool

    found = tool.find_runs(artifacts, preset)
    if compare:
        compared = tool.compare(found, compare)
        _say(tool.compare_text(compared), compared, as_json)
    else:
        _say(tool.runs_text(found), {"runs": tool.runs_json(found)}, as_json)


@app.command()
def doctor(
    preset: Annotated[str, typer.Argument(help="Also check this preset's teacher, weights and data.")] = "",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    as_json: Json = False,
) -> None:
    """Look at this machine: versions, GPU, faiss, disk, teacher weights; each finding with its remedy."""
    from pipeline.upkeep import doctor as tool

    findings = tool.examine(preset, data, artifacts)
    _say(tool.doctor_text(findings), {"findings": [vars(f) for f in findings]}, as_json)
    if any(f.level == "fault" for f in findings):
        raise typer.Exit(1)


data_app = typer.Typer(help="Your own data: write a preset for it, audit it, merge VOC with SBD.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("init")
def data_init(
    folder: Annotated[str, typer.Argument(help="A folder with images/ and masks/ (or the VOC layout).")],
    names: Annotated[str, typer.Option("--names", help="A text file: a mask value and a class name on each line.")] = (
        ""
    ),
    teacher: Annotated[
        str, typer.Option("--teacher", help="Teacher for the preset: an open_clip name, local-dir:...")
    ] = (""),
    weights: Annotated[str, typer.Option("--weights", help="Encoder weights for the preset: a local file.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace classes.toml and the preset of an earlier init.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Look at photos and masks; write classes.toml with statistics and an unseen split, and a commented preset."""
    from stages.data.init import init

    result = init(folder, names=names, teacher=teacher, weights=weights, force=force)
    _say(result.text(), result.json(), as_json)


@data_app.command("check")
def data_check(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = "artifacts",
    set_: Set = [],
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Decode every photo and mask and name all that is wrong; exit code 1 where something is."""
    from stages.data.check import check

    if workers < 0:
        raise InputError(f"--workers {workers}: give 0 or more")
    found = check(_plan(preset, data, artifacts, set_).data_config, workers=workers)
    counts = {"train": len(found.train.ids), "val": len(found.val.ids)}
    result = {"problems": list(found.problems), "notes": list(found.notes), **counts}
    _say(found.text(), result, as_json)
    if found.problems:
        raise typer.Exit(1)


prepare_app = typer.Typer(help="Make a published data set ready.", no_args_is_help=True)
data_app.add_typer(prepare_app, name="prepare")


@prepare_app.command("voc")
def prepare_voc(
    voc: Annotated[str, typer.Argument(help="The folder VOCdevkit/VOC2012.")],
    sbd: Annotated[str, typer.Argument(help="The unpacked SBD release.")],
) -> None:
    """Merge VOC 2012 with SBD into SegmentationClassAug and the train_aug list."""
    from pathlib import Path

    from stages.data.prepare_voc import prepare_voc as prepare

    print(prepare(Path(voc), Path(sbd)).text())


cache_app = typer.Typer(help="What is stored, what uses it, whether it is whole; making room.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Stored = Annotated[str, typer.Argument(help="A preset's name; nothing: all that lies under --artifacts.")]
Address = Annotated[str, typer.Argument(help="preset/name, or name alone, as `cache list` shows it.")]
Where = Annotated[str, typer.Option("--artifacts", help="The folder, or s3://bucket/prefix.")]


def _stored(preset: str) -> str:
    from pipeline.config import preset_name

    return preset_name(preset) if preset else ""


@cache_app.command("list")
def cache_list(preset: Stored = "", artifacts: Where = "artifacts", as_json: Json = False) -> None:
    """Every address: what it is, its state and size, what uses it."""
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    found = cache_tool.entries(artifacts, _stored(preset))
    _say(cache_text.list_text(found), {"addresses": [vars(e) for e in found]}, as_json)


@cache_app.command("show")
def cache_show(address: Address, artifacts: Where = "artifacts", as_json: Json = False) -> None:
    """All that one address says of itself: provenance, shards, bytes per view."""
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    found = cache_tool.show(artifacts, address)
    _say(cache_text.show_text(found), found, as_json)


@cache_app.command("rm")
def cache_rm(
    address: Address,
    artifacts: Where = "artifacts",
    force: Annotated[bool, typer.Option("--force", help="Even if something uses it.")] = False,
    as_json: Json = False,
) -> None:
    """Delete one address."""
    from pipeline.text import size
    from pipeline.upkeep import cache_tools as cache_tool

    found = cache_tool.remove(artifacts, address, force=force)
    _say(f"removed {found['removed'][0]}: {size(found['freed'])} freed", found, as_json)


@cache_app.command("gc")
def cache_gc(
    preset: Stored = "",
    data: Data = "",
    artifacts: Where = "artifacts",
    set_: Set = [],
    unused: Annotated[
        bool, typer.Option("--unused", help="Also what neither a run nor the PRESET's settings as they are now use.")
    ] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say it, don't do it.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what killed processes left: half-written files, claims, uncommitted shards."""
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    if unused and not preset:
        raise InputError("cache gc --unused: name the PRESET whose addresses stay")
    made = _plan(preset, data, artifacts, set_) if unused else None
    keep = {made.address(kind).name for kind in made.ingredients} if made else None
    found = cache_tool.collect(artifacts, _stored(preset), keep, dry=dry)
    _say(cache_text.collected_text(found), found, as_json)


@cache_app.command("verify")
def cache_verify(
    preset: Stored = "",
    data: Data = "",
    artifacts: Where = "artifacts",
    device: Device = "auto",
    set_: Set = [],
    teacher: Annotated[
        int, typer.Option("--teacher", help="Also encode so many views of the PRESET again, and compare.", min=0)
    ] = 0,
    repair: Annotated[bool, typer.Option("--repair", help="Take back what is damaged.")] = False,
    as_json: Json = False,
) -> None:
    """Read every byte and compare it with its checksum. Exit code 1 where something is wrong."""
    from pipeline import run
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    if teacher and not preset:
        raise InputError("cache verify --teacher: name the PRESET whose teacher and images to compare with")
    found = cache_tool.verify(artifacts, _stored(preset), repair=repair)
    text, bad = cache_text.verify_text(found), bool(found["faults"])
    if teacher and not bad:
        found["teacher"] = run.verify_teacher(_plan(preset, data, artifacts, set_), _machine(device, 0), teacher)
        text += f"\n{cache_text.teacher_text(found['teacher'])}"
        bad = bool(found["teacher"]["faults"])
    _say(text, found, as_json)
    if bad and not repair:
        raise typer.Exit(1)


@cache_app.command("drop-dense")
def cache_drop_dense(
    preset: Preset, data: Data = "", artifacts: Artifacts = "artifacts", set_: Set = [], as_json: Json = False
) -> None:
    """Delete the dense tier; training never reads it. Sizes are shown before and after."""
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    found = cache_tool.drop_dense(_plan(preset, data, artifacts, set_))
    _say(cache_text.dropped_text(found), found, as_json)


_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR)
"""The operating system's noes to a path that the user named. Others are faults of the program."""


def main() -> None:
    """Entry point: one line and exit code 2 for bad input, 1 for anything else that fails."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in _REFUSALS or not error.filename:
            raise
        _fail(f"{error.filename}: {os.strerror(error.errno or 0).lower()}; name another place, or make this one usable")
    except (typer.Abort, KeyboardInterrupt):
        print("stopped; what is committed stays, the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        # Typer's usage errors, whose class differs between its releases; their own form is several lines long.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if message.startswith("Usage:"):  # a command group alone: its help is the answer
            print(message)
            raise SystemExit(2) from None
        _fail(f"{' '.join(message.split())} See `clip2seg COMMAND --help`")
    else:
        raise SystemExit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    print(f"error: {message}" if rank == "0" else f"error (rank {rank}): {message}", file=sys.stderr)
    raise SystemExit(2) from None


if __name__ == "__main__":
    main()
