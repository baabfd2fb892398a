"""The model card of an export: Markdown with the hub's front matter. Every number comes from a report."""

from __future__ import annotations

import json
from typing import Any

from stages.parts.eval_report import EvalReport

_INPUT = {
    "onnx": "`image`: uint8 [1, 3, H, W], RGB, 0..255; ImageNet's normalisation is inside.\n"
    "Outputs `labels`: uint8 [1, H, W], above 254 classes int32, and `scores`: float32 [1, K, h, w], at its stride.",
    "torch-export": "`image`: uint8 [1, 3, H, W], RGB, 0..255; ImageNet's normalisation is inside.\n"
    "Returns `labels`: uint8 [1, H, W], above 254 classes int32, and `scores`: float32 [1, K, h, w]. "
    'Load with `torch.export.load("student.pt2").module()`.',
    "safetensors": "Load with `import clip2seg; clip2seg.load_student(FILE).segment(IMAGE)` of clip2seg.",
}


def model_card(report: dict[str, Any], facts: dict[str, Any]) -> str:
    """Card of an export: what it is, its classes, what it was trained on, its scores, and its check."""
    classes = report["classes"]
    seen = [text(c["name"]) for c in classes if c["seen"]]
    unseen = [text(c["name"]) for c in classes if not c["seen"]]
    lines = [
        "---",
        "library_name: clip2seg",
        "pipeline_tag: image-segmentation",
        "tags: [semantic-segmentation, zero-shot, clip]",
        "license: other",
        "---",
        f"# {text(facts['student'])}, trained by CLIP-to-Seg distillation",
        "",
        f"Semantic segmentation in {len(classes)} classes. CLIP is not needed to run it.",
        "",
        f"- Labelled in training ({len(seen)}): {', '.join(seen) or 'none'}",
        f"- Never labelled in training ({len(unseen)}): {', '.join(unseen) or 'none'}",
        "",
        "## Use",
        _INPUT[report["format"]],
        "",
        f"Resize photos to a short side of about {report['short_side']} pixels, the size it was trained at; any "
        f"height and width from {report['smallest_side']} pixels works. Class indices stand in `classes.json`."
        + (f" A seen bias of {report['seen_bias']} is folded in." if report["seen_bias"] else ""),
        "",
        "## Training",
        *(f"- {key}: {text(value)}" for key, value in facts["training"].items()),
        "",
        "## Scores",
        *_scores(facts.get("scores")),
        "",
        "## Check of this file",
        f"Compared with PyTorch on {report['photos']} photos ({text(report['photos_from'])}): "
        f"{100 * report['agreement']:.4f} % of {report['pixels']} pixels get the same class; scores differ by at most "
        f"{report['largest_difference']:.2e} (largest score {report['largest_score']:.2f}).",
        "",
        "## Licence",
        "This card sets no licence. The weights derive from the training photos, the teacher "
        f"({text(facts['training'].get('teacher', 'not recorded'))}) and the encoder's pretrained weights: check the "
        "terms of all three before you share them, then set `license` above.",
    ]
    return "\n".join(lines) + "\n"


def text(value: object) -> str:
    """A value as Markdown text: what Markdown or HTML would act on is escaped, lines are joined."""
    if not isinstance(value, str):
        return f"`{json.dumps(value).replace('`', '')}`" if isinstance(value, dict | list) else json.dumps(value)
    plain = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in plain)


def _scores(found: EvalReport | None) -> list[str]:
    if not found:
        return ["Not evaluated by `clip2seg eval`."]
    rows = ["| | hIoU | sIoU | uIoU | pixel accuracy |", "|---|---|---|---|---|"]
    rows.append(f"| {text(found.data)} | " + " | ".join(_number(getattr(found, k)) for k in _KEYS) + " |")
    supported = found.supported
    values = " | ".join(_number(getattr(supported, k)) for k in _KEYS)
    rows.append(f"| classes with {supported.min_pixels} pixels | {values} |")
    rows.append("")
    rows.append(f"{found.images} images, split {text(found.split)}, in per cent.")
    return rows


_KEYS = ("hIoU", "sIoU", "uIoU", "pixel_accuracy")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
