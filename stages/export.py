"""export: a trained student with a chosen vocabulary as one file that needs nothing of this project.

reads: a student, photos to check with | writes: OUT/student.{onnx,pt2,safetensors}, OUT/classes.json,
OUT/README.md (the model card). Written only where the file was run and agrees with PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from cache.errors import InputError
from cache.files import write_whole
from stages.parts.data.views import Array
from stages.parts.drawing.model_card import model_card
from stages.parts.drawing.palette import palette
from stages.parts.scoring.segmenter import ClassEmbeddings
from stages.parts.students import StudentConfig
from stages.parts.students.checkpoint import Checkpoint, pack, unpack
from stages.parts.students.exporting import (
    LARGEST,
    OPSET,
    Agreement,
    PhotoStudent,
    compare,
    need_onnx,
    onnx_bytes,
    onnx_runner,
    pytorch_runner,
    torch_export_bytes,
    torch_export_runner,
    traced,
)
from stages.running.progress import say

Format = Literal["onnx", "torch-export", "safetensors"]
FILES = {"onnx": "student.onnx", "torch-export": "student.pt2", "safetensors": "student.safetensors"}
AGREEMENT = 0.999
"""Least share of pixels on which an export must give PyTorch's class."""


def run(
    checkpoint: Checkpoint,
    words: ClassEmbeddings,
    photos: Sequence[Array],
    out: Path,
    *,
    format: Format,
    opset: int,
    seen_bias: float,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Exports, reads the result back, compares it with PyTorch on `photos`, and writes it with its model card.

    facts: what the card says of the run (`pipeline.use.export`). Returns the report. Raises InputError, and writes
    nothing, where fewer than 99.9 % of the pixels agree.
    """
    if format == "onnx":
        need_onnx()  # said before the minutes that tracing takes
    if format == "safetensors" and words.owners:
        raise InputError(
            "--format safetensors: holds one embedding a class, so several can't compete; use --synonyms mean, or "
            "--format onnx or torch-export"
        )
    if format == "safetensors" and seen_bias:
        raise InputError(
            f"--seen-bias {seen_bias:g} --format safetensors: the file holds the student as it was trained, without a "
            "bias; give it when you predict (`predict --seen-bias`), or use --format onnx or torch-export"
        )
    bias = seen_bias * torch.tensor(words.seen, dtype=torch.float32)
    photo = PhotoStudent(checkpoint.student, words.text, bias, words.owners).cpu().eval()
    usable = [p for p in photos if photo.smallest <= min(p.shape[:2]) and max(p.shape[:2]) <= LARGEST]
    if not usable:
        raise InputError(f"no photo of {photo.smallest} to {LARGEST} pixels a side to verify the export with")
    about = {
        "classes": [{"name": n, "seen": s} for n, s in zip(words.names, words.seen, strict=True)],
        "short_side": facts["short_side"],
        "smallest_side": photo.smallest,
        "seen_bias": seen_bias,
        "synonyms": "max" if words.owners else "mean",
    }
    say(f"export: tracing the student for {format}")
    packed, agreement = _made(format, checkpoint, photo, words, usable, opset, about)
    if agreement.share < AGREEMENT:
        raise InputError(
            f"--format {format}: only {100 * agreement.share:.3f} % of {agreement.pixels} pixels agree with PyTorch "
            f"({100 * AGREEMENT:g} % wanted); nothing was written; use another format"
        )
    report = {
        "format": format,
        "file": str(out / FILES[format]),
        "bytes": len(packed),
        "opset": opset if format == "onnx" else None,
        "photos": agreement.photos,
        "photos_from": facts["photos_from"],
        "pixels": agreement.pixels,
        "agreement": round(agreement.share, 8),
        "largest_difference": agreement.largest_difference,
        "largest_score": agreement.largest_score,
        **about,
    }
    out.mkdir(parents=True, exist_ok=True)
    colours = palette(words.names).tolist()
    listed = {**about, "colours": colours[: len(words.names)], "file": FILES[format]}
    write_whole(out / "classes.json", (json.dumps(listed, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(out / "README.md", model_card(report, facts).encode())
    write_whole(out / FILES[format], packed)
    return report


def _made(
    format: Format,
    checkpoint: Checkpoint,
    photo: PhotoStudent,
    words: ClassEmbeddings,
    photos: Sequence[Array],
    opset: int,
    about: dict[str, Any],
) -> tuple[bytes, Agreement]:
    ours = pytorch_runner(photo)
    if format == "safetensors":
        packed = _repacked(checkpoint, words)
        again = unpack(packed, FILES[format])
        theirs = PhotoStudent(again.student, _text_of(again, words), torch.zeros(len(words.names)))
        return packed, compare(ours, pytorch_runner(theirs), photos)
    program = traced(photo)
    if format == "onnx":
        packed = onnx_bytes(program, opset, about)
        return packed, compare(ours, onnx_runner(packed), photos)
    packed = torch_export_bytes(program)
    return packed, compare(ours, torch_export_runner(packed), photos)


def _repacked(checkpoint: Checkpoint, words: ClassEmbeddings) -> bytes:
    """The student's file with the embeddings of every chosen name in it, so that it travels without its run."""
    known = dict(zip(checkpoint.seen, checkpoint.text, strict=True))
    for name, own in zip(words.names, words.text, strict=True):
        if name in known and not torch.allclose(own, known[name], atol=1e-4):
            raise InputError(
                f"class {name!r}: stands for other words than in training, and the file would keep both; give it "
                f"another name, as in 'my {name} = {name} | ...'"
            )
    more = [k for k, name in enumerate(words.names) if name not in known]
    about = {
        k: v for k, v in checkpoint.about.items() if k not in ("format", "student", "seen", "dim", "more", "sha256")
    }
    cfg = StudentConfig.model_validate_json(json.dumps(checkpoint.about["student"]))
    extra = (tuple(words.names[k] for k in more), words.text[more])
    return pack(checkpoint.student, cfg, checkpoint.seen, checkpoint.text, about, extra)


def _text_of(checkpoint: Checkpoint, words: ClassEmbeddings) -> torch.Tensor:
    known = dict(zip(checkpoint.seen, checkpoint.text, strict=True))
    if checkpoint.more_text is not None:
        known |= dict(zip(checkpoint.more, checkpoint.more_text, strict=True))
    return torch.stack([known[name] for name in words.names])


def push(folder: Path, repository: str) -> str:
    """Uploads an export folder to the Hugging Face hub; returns its address. The one door to huggingface_hub.

    The token comes from `hf auth login` or HF_TOKEN and enters no message. Raises InputError where it fails.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError("--push-to-hub: needs huggingface_hub; run `pip install huggingface_hub`") from error
    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True, repo_type="model")
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="clip2seg export")
    except Exception as error:  # the hub's client raises its own, httpx's and validation errors
        raise InputError(
            f"--push-to-hub {repository}: refused ({type(error).__name__}); check the name, the network and "
            f"`hf auth whoami`. The export stays in {folder}"
        ) from error
    return str(address)


DEFAULT_OPSET = OPSET
