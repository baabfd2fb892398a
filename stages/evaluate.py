"""eval: the student alone on the evaluation images -> sIoU, uIoU, hIoU, per-class table, picture grid.

method.md section 7. The teacher's training-free row goes through the same code with another scorer; that one
alone loads CLIP.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cache.location import Location
from cache.settings import InputError
from cache.store import Artifact
from stages.parts.checkpoint import Checkpoint, unpack
from stages.parts.datasets import BadSample, Dataset, Quarantine
from stages.parts.extremes import Extremes
from stages.parts.inference import Scorer, class_scores, predicted, student_scorer
from stages.parts.metrics import Scores, confusion, scores
from stages.parts.pictures import grid, overlay, palette
from stages.parts.settings import EvaluateConfig
from stages.parts.teacher import TeacherConfig
from stages.parts.views import Array
from stages.progress import Bar, Clock


def run(
    cfg: EvaluateConfig,
    data: Dataset,
    text: Artifact,
    run_at: Location,
    out: Location,
    *,
    device: torch.device,
    workers: int,
) -> dict[str, Any]:
    """Scores the student of `run_at`; writes report.json and grid.png; returns the report."""
    checkpoint = load_student(run_at)
    embeddings = all_text(text, data, checkpoint, str(run_at))
    scorer = student_scorer(checkpoint.student.to(device), embeddings.to(device))
    return _score(
        cfg, data, scorer, out, device, workers, {"scored": "student", "run": str(run_at), "about": checkpoint.about}
    )


def run_teacher(
    cfg: EvaluateConfig,
    teacher_cfg: TeacherConfig,
    data: Dataset,
    text: Artifact,
    out: Location,
    *,
    device: torch.device,
    workers: int,
) -> dict[str, Any]:
    """Scores the teacher training-free: its dense tokens against the same text embeddings, by the same code."""
    from stages.parts.teacher import load_teacher  # the one place of this stage that needs CLIP

    teacher = load_teacher(teacher_cfg, device)
    arrays = text.read(0)
    embeddings = torch.from_numpy(np.concatenate([arrays["seen"], arrays["unseen"]])).to(device)
    side = teacher.input_size

    def score(pixels: torch.Tensor) -> torch.Tensor:
        squashed = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
        _, dense = teacher.encode_views(squashed.round().clamp(0, 255).to(torch.uint8))
        return torch.einsum("bhwd,kd->bkhw", torch.nn.functional.normalize(dense, dim=-1), embeddings)

    return _score(
        cfg, data, score, out, device, workers, {"scored": "teacher, training-free", "recipe": teacher.recipe}
    )


def load_student(run_at: Location) -> Checkpoint:
    """The finished student of a run."""
    mark, packed = run_at.get_mark("complete.json"), run_at.get("student.safetensors")
    if mark is None or packed is None:
        raise InputError(f"{run_at}: no trained student there; run `clip2seg train` first, to its end")
    digest = hashlib.sha256(packed).hexdigest()
    if mark.get("objects", {}).get("student.safetensors", digest) != digest:
        raise InputError(f"{run_at}/student.safetensors: damaged; run `clip2seg cache verify --repair`, then train")
    return unpack(packed, f"{run_at}/student.safetensors")


def all_text(text: Artifact, data: Dataset, checkpoint: Checkpoint, where: str) -> torch.Tensor:
    """Text embeddings [K, D] of seen + unseen classes. Raises InputError where the student knows other seen ones."""
    if checkpoint.seen != data.vocabulary.seen:
        odd = sorted(set(checkpoint.seen) ^ set(data.vocabulary.seen))
        raise InputError(
            f"{where}: trained on other seen classes than split {data.vocabulary.split!r} has ({', '.join(odd[:5])})"
        )
    arrays = text.read(0)
    seen = torch.from_numpy(arrays["seen"])
    if seen.shape != checkpoint.text.shape or not torch.allclose(seen, checkpoint.text, atol=1e-4):
        raise InputError(
            f"{where}: trained with other text embeddings than {text} holds; use its own teacher and prompts"
        )
    return torch.cat([checkpoint.text, torch.from_numpy(arrays["unseen"])])


EXTREMES = 4
"""Best and worst pictures kept for the run's report."""


class _Pairs(TorchDataset["tuple[Array, Array] | BadSample"]):
    """Images with all their labels, decoded in workers."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Array, Array] | BadSample:
        try:
            return self.data.image(i), self.data.labels(i, "all")
        except BadSample as error:
            return error


def _score(
    cfg: EvaluateConfig,
    data: Dataset,
    scorer: Scorer,
    out: Location,
    device: torch.device,
    workers: int,
    about: dict[str, Any],
) -> dict[str, Any]:
    words, clock, quarantine = data.vocabulary, Clock(), Quarantine(data.cfg.max_bad)
    counts = np.zeros((len(words.ordered), len(words.ordered)), np.int64)
    gallery = _Gallery(cfg.pictures, len(words.seen), len(words.ordered))
    extremes = Extremes(EXTREMES if cfg.pictures else 0, len(words.ordered))
    loader = DataLoader(_Pairs(data), batch_size=1, collate_fn=list, num_workers=workers)
    start = time.perf_counter()
    with Bar("eval", len(data), "images") as bar:
        for name, (pair,) in zip(data.ids, loader, strict=True):
            bar.advance()
            if isinstance(pair, BadSample):
                quarantine.add(pair)
                continue
            image, labels = pair
            with clock("model"):
                found = predicted(class_scores(scorer, image, cfg, len(words.seen), device))
            counts += confusion(found, labels, len(words.ordered))
            gallery.offer(image, labels, found)
            extremes.offer(name, image, labels, found)
    ends = {"best": extremes.best, "worst": extremes.worst}
    report = {
        **about,
        **table(scores(counts, len(words.seen)), words.ordered, len(words.seen)),
        f"classes_with_{cfg.min_pixels}_pixels": table(
            scores(counts, len(words.seen), cfg.min_pixels), words.ordered, len(words.seen), classes=False
        ),
        "data": data.cfg.val,
        "split": words.split,
        "split_hash": words.split_hash,
        "images": len(data) - len(quarantine.bad),
        "bad": quarantine.bad,
        "settings": cfg.numbers(),
        "images_per_second": round(len(data) / (time.perf_counter() - start), 2),
        "pictures": {end: [[one.name, round(100 * one.iou, 2)] for one in shown] for end, shown in ends.items()},
    }
    out.put_json("confusion.json", {"classes": list(words.ordered), "counts": counts.tolist()})
    if gallery.pictures:
        out.put("grid.png", _pictures(gallery.pictures, words.ordered, len(words.seen)))
    for end, shown in ends.items():
        if shown:
            pictures = [(one.image, one.labels, one.found) for one in shown]
            out.put(f"{end}.png", _pictures(pictures, words.ordered, len(words.seen)))
    out.put_json("report.json", report)
    out.put_json("complete.json", {"summary": {k: report[k] for k in ("sIoU", "uIoU", "hIoU")}})
    return report


def table(found: Scores, names: tuple[str, ...], num_seen: int, *, classes: bool = True) -> dict[str, Any]:
    """Scores as JSON, in per cent; NaN as null; classes without a single evaluation pixel are marked."""
    report: dict[str, Any] = {
        "sIoU": per_cent(found.siou),
        "uIoU": per_cent(found.uiou),
        "hIoU": per_cent(found.hiou),
        "pixel_accuracy": per_cent(found.pixel_accuracy),
    }
    if classes:
        report["classes"] = [
            {
                "name": name,
                "seen": i < num_seen,
                "IoU": per_cent(float(found.iou[i])),
                "pixels": int(found.pixels[i]),
                "support": bool(found.pixels[i]),
            }
            for i, name in enumerate(names)
        ]
    else:
        report["counted"] = [name for i, name in enumerate(names) if found.counted[i]]
    return report


def per_cent(share: float) -> float | None:
    """A share in [0, 1] as per cent with two decimals; NaN as None."""
    return None if math.isnan(share) else round(100 * share, 2)


class _Gallery:
    """Chooses pictures as they come: images of each unseen class in turn first, then any, the same in every run."""

    def __init__(self, size: int, num_seen: int, num_classes: int) -> None:
        self.size, self.num_seen = size, num_seen
        self.quota = {c: -(-size // max(1, num_classes - num_seen)) for c in range(num_seen, num_classes)}
        self.first: list[tuple[Array, Array, Array]] = []
        self.rest: list[tuple[Array, Array, Array]] = []

    def offer(self, image: Array, labels: Array, found: Array) -> None:
        """Keeps the picture if it adds something."""
        shares = np.bincount(labels.ravel(), minlength=256) / labels.size
        for c, left in self.quota.items():
            if left and shares[c] >= 0.05:
                self.quota[c] -= 1
                self.first.append((image, labels, found))
                return
        if len(self.rest) < self.size:
            self.rest.append((image, labels, found))

    @property
    def pictures(self) -> list[tuple[Array, Array, Array]]:
        """The chosen ones."""
        return (self.first + self.rest)[: self.size]


def _pictures(shown: list[tuple[Array, Array, Array]], names: tuple[str, ...], num_seen: int) -> bytes:
    colours = palette(len(names))
    rows = [[image, overlay(image, labels, colours), overlay(image, found, colours)] for image, labels, found in shown]
    return grid(
        rows, ["image", "ground truth", "prediction"], [part for _, *two in shown for part in two], names, num_seen
    )
