"""Panel Maintain of `clip2seg --help`: data, stored artifacts, the machine, the demo teacher."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cache.errors import InputError, printable
from pipeline.cli.common import (
    ARTIFACTS_FOLDER,
    Artifacts,
    Data,
    Device,
    Json,
    Preset,
    Set,
    Teacher,
    Workers,
    emit,
    make_machine,
    make_plan,
)

PANEL = "Maintain"
app = typer.Typer()


data_app = typer.Typer(help="Your own data: preset, audit, VOC with SBD.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel=PANEL)


@data_app.command("init")
def data_init(
    folder: Annotated[str, typer.Argument(help="A folder with images/ and masks/ (or the VOC layout).")],
    names: Annotated[
        str,
        typer.Option(
            "--names", help='A text file: a mask value and a class name on each line. Without masks: "cat, dog, grass".'
        ),
    ] = (""),
    teacher: Teacher = "",
    weights: Annotated[str, typer.Option("--weights", help="Encoder weights for the preset: a local file.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier preset, a damaged classes.toml.")] = (
        False
    ),
    out: Annotated[
        str, typer.Option("--out", help="Folder for classes.toml and the preset, where FOLDER can't be written to.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Write a preset for photos and masks.

    Also writes classes.toml with statistics and an unseen split; of photos without masks with the --names to find.
    """
    from stages.data.init import init
    from stages.data.init_names import init_names, is_bare

    start = init_names if is_bare(folder) else init
    result = start(folder, names=names, teacher=teacher, weights=weights, out=out, force=force)
    emit(result.text(), result.json(), as_json)


@data_app.command("import")
def data_import(
    folder: Annotated[str, typer.Argument(help="A folder with photos and annotations, see docs/data-formats.md.")],
    out: Annotated[str, typer.Option("--out", help="A new folder for images/, masks/, names.txt and lists.")],
    format_: Annotated[str, typer.Option("--format", help="Its format, where a folder may hold several.")] = "",
    as_json: Json = False,
) -> None:
    """Convert COCO, LabelMe, YOLO ... annotations.

    Once, into photos and masks that `data init` reads.
    """
    from stages.data.importing import import_folder

    result = import_folder(folder, out, format_)
    emit(result.text(), result.json(), as_json)


@data_app.command("check")
def data_check(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    set_: Set = [],
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Decode all photos and masks, name all faults.

    Exit code 1 where something is wrong.
    """
    from pipeline import run
    from stages.data.check import check

    if workers < 0:
        raise InputError(f"--workers {workers}: give 0 or more")
    made = make_plan(preset, data, artifacts, set_)
    run.draw_world(made)
    found = check(made.data_config, workers=workers)
    counts = {"train": len(found.train.ids), "val": len(found.val.ids)}
    result = {"problems": list(found.problems), "notes": list(found.notes), **counts}
    emit(found.text(), result, as_json)
    if found.problems:
        raise typer.Exit(1)


@data_app.command("apply-concepts")
def data_apply_concepts(
    preset: Annotated[str, typer.Argument(help="The preset whose concepts were chosen from.")],
    choices: Annotated[str, typer.Argument(help="choices.json, saved on the page of `inspect PRESET concepts`.")],
    out: Annotated[str, typer.Option("--out", help="A new folder; default: PRESET_concepts.")] = "",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Make classes of chosen concepts.

    Writes classes.toml, a preset and, for seen classes, masks.
    """
    from pipeline.upkeep.apply_concepts import applied_text, apply_concepts

    found = apply_concepts(make_plan(preset, data, artifacts, set_), choices, out)
    emit(applied_text(found), found, as_json)


@data_app.command("suggest")
def data_suggest(
    preset: Preset = "demo",
    count: Annotated[int, typer.Option("--count", help="Photos to suggest.")] = 50,
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    set_: Set = [],
    out: Annotated[str, typer.Option("--out", help="Folder for lists and page; default: beside the artifacts.")] = "",
    as_json: Json = False,
) -> None:
    """Say which photos to annotate next.

    By concepts that no labels cover, rare ones more, and by doubt between student and teacher.
    """
    from pipeline.inspection.opened import Inspection
    from pipeline.inspection.suggest import suggest, suggest_text

    found = suggest(Inspection(make_plan(preset, data, artifacts, set_), make_machine(device, 0), out), count)
    emit(suggest_text(found), found, as_json)


prepare_app = typer.Typer(help="Make a published data set ready.", no_args_is_help=True)
data_app.add_typer(prepare_app, name="prepare")


@prepare_app.command("voc")
def prepare_voc(
    voc: Annotated[str, typer.Argument(help="The folder VOCdevkit/VOC2012.")],
    sbd: Annotated[str, typer.Argument(help="The unpacked SBD release.")],
) -> None:
    """Merge VOC 2012 with SBD.

    Makes SegmentationClassAug and the train_aug list.
    """
    from pathlib import Path

    from stages.data.prepare_voc import prepare_voc as prepare

    print(printable(prepare(Path(voc), Path(sbd)).text()))


cache_app = typer.Typer(help="What is stored: list, verify, make room.", no_args_is_help=True)
app.add_typer(cache_app, name="cache", rich_help_panel=PANEL)

Stored = Annotated[str, typer.Argument(help="A preset's name; nothing: all that lies under --artifacts.")]
Address = Annotated[str, typer.Argument(help="preset/name, or name alone, as `cache list` shows it.")]
Addresses = Annotated[
    list[str], typer.Argument(metavar="ADDRESS...", help="preset/name, or name alone, as `cache list` shows them.")
]
Where = Annotated[str, typer.Option("--artifacts", help="The folder, or s3://bucket/prefix.")]


def _stored(preset: str) -> str:
    from pipeline.config import preset_name

    return preset_name(preset) if preset else ""


@cache_app.command("list")
def cache_list(preset: Stored = "", artifacts: Artifacts = ARTIFACTS_FOLDER, as_json: Json = False) -> None:
    """List addresses: state, size, what uses them."""
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    found, links = cache_tool.entries(artifacts, _stored(preset)), cache_tool.links(artifacts, _stored(preset))
    emit(cache_text.list_text(found, links), {"addresses": [vars(e) for e in found], "links": links}, as_json)


@cache_app.command("show")
def cache_show(address: Address, artifacts: Artifacts = ARTIFACTS_FOLDER, as_json: Json = False) -> None:
    """Show provenance, shards and size of one address."""
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    found = cache_tool.show(artifacts, address)
    emit(cache_text.show_text(found), found, as_json)


@cache_app.command("rm")
def cache_rm(
    addresses: Addresses,
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    force: Annotated[bool, typer.Option("--force", help="Even if something uses it.")] = False,
    as_json: Json = False,
) -> None:
    """Delete addresses.

    All of them, or, where something else uses one, none.
    """
    from pipeline.text import size
    from pipeline.upkeep import cache_tools as cache_tool

    found = cache_tool.remove(artifacts, addresses, force=force)
    emit(f"removed {', '.join(found['removed'])}: {size(found['freed'])} freed", found, as_json)


@cache_app.command("gc")
def cache_gc(
    preset: Stored = "",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    set_: Set = [],
    unused: Annotated[
        bool, typer.Option("--unused", help="Also what neither a run nor the PRESET's settings as they are now use.")
    ] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say it, don't do it.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what killed processes left.

    Half-written files, claims, uncommitted shards.
    """
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    if unused and not preset:
        raise InputError("cache gc --unused: name the PRESET whose addresses stay")
    made = make_plan(preset, data, artifacts, set_) if unused else None
    keep = {made.address(kind).name for kind in made.ingredients} if made else None
    found = cache_tool.collect(artifacts, _stored(preset), keep, dry=dry)
    emit(cache_text.collected_text(found), found, as_json)


@cache_app.command("verify")
def cache_verify(
    preset: Stored = "",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    set_: Set = [],
    encode_again: Annotated[
        int, typer.Option("--encode-again", help="Also encode so many views of the PRESET again.", min=0)
    ] = 0,
    repair: Annotated[bool, typer.Option("--repair", help="Take back what is damaged.")] = False,
    as_json: Json = False,
) -> None:
    """Compare every byte with its checksum.

    Exit code 1 where something is wrong.
    """
    from pipeline import run
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    if encode_again and not preset:
        raise InputError("cache verify --encode-again: name the PRESET whose teacher and images to compare with")
    found = cache_tool.verify(artifacts, _stored(preset), repair=repair)
    text, bad = cache_text.verify_text(found), bool(found["faults"])
    if encode_again and not bad:
        found["teacher"] = run.verify_teacher(
            make_plan(preset, data, artifacts, set_), make_machine(device, 0), encode_again
        )
        text += f"\n{cache_text.teacher_text(found['teacher'])}"
        bad = bool(found["teacher"]["faults"])
    emit(text, found, as_json)
    if bad and not repair:
        raise typer.Exit(1)


@cache_app.command("drop-dense")
def cache_drop_dense(
    preset: Preset, data: Data = "", artifacts: Artifacts = ARTIFACTS_FOLDER, set_: Set = [], as_json: Json = False
) -> None:
    """Delete the dense tokens, unread by training.

    Sizes are shown before and after.
    """
    from pipeline.upkeep import cache_text
    from pipeline.upkeep import cache_tools as cache_tool

    found = cache_tool.drop_dense(make_plan(preset, data, artifacts, set_))
    emit(cache_text.dropped_text(found), found, as_json)


@app.command(rich_help_panel=PANEL)
def certify(
    preset: Preset = "demo",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    set_: Set = [],
    photos: Annotated[int, typer.Option("--photos", help="Training photos to run on.")] = 16,
    steps: Annotated[int, typer.Option("--steps", help="Training steps to run.")] = 2,
    out: Annotated[str, typer.Option("--out", help="Where the certificate goes; default: beside the artifacts.")] = "",
    as_json: Json = False,
) -> None:
    """Prove that no unseen class leaks into training.

    Runs the stages twice on your photos, once with unseen labels, names and embeddings poisoned; compares all bytes.
    """
    from pipeline.upkeep.certify import certificate_text
    from pipeline.upkeep.certify import certify as tool

    found = tool(make_plan(preset, data, artifacts, set_), make_machine(device, 0), photos=photos, steps=steps, out=out)
    emit(certificate_text(found), found, as_json)
    if not found["inductive"]:
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def doctor(
    preset: Annotated[str, typer.Argument(help="Also check this preset's teacher, weights and data.")] = "",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    teacher: Annotated[
        str, typer.Option("--teacher", help="Look at a teacher instead: an open_clip name or local-dir:...")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check this machine and what is installed.

    Versions, GPU, faiss, disk, teacher weights; each finding with its remedy.
    """
    from pipeline.upkeep import doctor as tool

    if teacher:
        from pipeline.upkeep.doctor_teacher import examine_teacher

        findings = examine_teacher(teacher)
    else:
        findings = tool.examine(preset, data, artifacts)
    emit(tool.doctor_text(findings), {"findings": [vars(f) for f in findings]}, as_json)
    if any(f.level == "fault" for f in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def teacher(
    out: Annotated[str, typer.Argument(help="Folder to write the open_clip model to.")] = "artifacts/demo_teacher",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option("--workers", help="Processes that draw scenes.")] = 2,
    as_json: Json = False,
) -> None:
    """Pre-train the demo's own CLIP from captions.

    Takes about a quarter of an hour on two cores.
    """
    from pathlib import Path

    from stages.demo.teach import TeachConfig, run

    where = str(make_machine(device, workers).compute.device)
    made = run(TeachConfig(), Path(out), device=where, workers=workers, say=lambda text: print(text, file=sys.stderr))
    emit(f"teacher -> {out}: zero-shot top-1 {100 * made.accuracy:.1f} %", vars(made), as_json)
