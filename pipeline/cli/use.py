"""Panel Use of `clip2seg --help`: a trained student at work."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.common import (
    ARTIFACTS_FOLDER,
    Artifacts,
    Classes,
    Data,
    Device,
    Json,
    Open,
    SeenBias,
    Synonyms,
    Teacher,
    emit,
    open_student,
    show,
)

PANEL = "Use"
app = typer.Typer()


Run = Annotated[
    str,
    typer.Option("--run", help="A run folder, a student file, PRESET/train-FINGERPRINT, or a preset."),
]


@app.command(rich_help_panel=PANEL)
def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="PICTURE|FOLDER|VIDEO...", help="What to segment: one or more, or a video.")
    ],
    run: Run,
    classes: Classes = "",
    out: Annotated[str, typer.Option("--out", help="The folder to write to.")] = "predictions",
    threshold: Annotated[float, typer.Option("--threshold", help="Background below this sigmoid score; 0: none.")] = 0,
    short_side: Annotated[int, typer.Option("--short-side", help="Pixels; 0: the run's training crop.")] = 0,
    mode: Annotated[str, typer.Option("--mode", help="One pass, tiles, or by size.", metavar="auto|whole|slide")] = (
        "auto"
    ),
    seen_bias: SeenBias = 0,
    synonyms: Synonyms = "mean",
    pamr: Annotated[int, typer.Option("--pamr", help="Rounds of smoothing scores by colour, 10 say; 0: none.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Overlays without contours, names and legend.")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", help="Folders within folders too.")] = False,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="Larger pictures are refused.")] = 100_000_000,
    teacher: Teacher = "",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    device: Device = "auto",
    open_: Open = False,
    as_json: Json = False,
) -> None:
    """Segment pictures, folders or a video.

    Writes label PNGs, overlays with a legend, a page of them all, and a JSON of classes and areas.
    """
    from pipeline.use.predict import predict as run_predict
    from pipeline.use.predict import predict_text
    from stages.predict import PAGE

    student = open_student(run, artifacts, data, device, teacher)
    options = {
        "threshold": threshold,
        "short_side": short_side,
        "mode": mode,
        "seen_bias": seen_bias,
        "pamr": pamr,
    }
    result = run_predict(student, sources, out, classes or None, options, max_pixels, plain, synonyms, recursive)
    emit(predict_text(result, out), result, as_json)
    if open_:
        show(f"{out}/{PAGE}")


@app.command(rich_help_panel=PANEL)
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
    seen_bias: SeenBias = 0,
    synonyms: Synonyms = "mean",
    push_to_hub: Annotated[
        str, typer.Option("--push-to-hub", help="Upload to this Hugging Face repository.", metavar="OWNER/NAME")
    ] = "",
    teacher: Teacher = "",
    data: Data = "",
    artifacts: Artifacts = ARTIFACTS_FOLDER,
    as_json: Json = False,
) -> None:
    """Write a student as one ONNX or PyTorch file.

    With its vocabulary, checked against PyTorch, beside a model card.
    """
    from pipeline.use.export import export as run_export
    from pipeline.use.export import export_text

    student = open_student(run, artifacts, data, "cpu", teacher)
    result = run_export(
        student,
        classes or None,
        out,
        format=format_,
        photos=photos,
        opset=opset,
        seen_bias=seen_bias,
        synonyms=synonyms,
        push_to_hub=push_to_hub,
    )
    emit(export_text(result), result, as_json)
