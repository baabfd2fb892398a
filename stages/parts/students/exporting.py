"""A student as one function of a photo, and that function as ONNX or torch.export; comparison with PyTorch.

The one door to onnx and onnxruntime. ImageNet's normalisation is folded in front of the student, the chosen
vocabulary into a last 1x1 convolution, and the resize to a multiple of the student's stride in between.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cache.errors import InputError
from cache.settings import MOST_IN_A_BYTE
from stages.parts.data.views import Array
from stages.parts.students.inputs import IMAGENET_MEAN, IMAGENET_STD

OPSET = 18
LARGEST = 16_384
"""Longest side of a photo that an exported student accepts, in pixels."""

Runner = Callable[[Array], tuple[Array, NDArray[np.float32]]]
"""A photo uint8 [H, W, 3] -> labels uint8 [H, W], scores float32 [K, h, w]."""


class PhotoStudent(nn.Module):
    """A student with a vocabulary: photo uint8 [1, 3, H, W] -> labels uint8 [1, H, W], scores [1, K, h, w].

    `scores` are at the student's own stride; `labels` are their bilinear argmax at the photo's size. `bias` [K] is
    taken off the scores (`seen_bias`). `text` [K, D], or, where a class has several rows of which the best counts,
    [R, D] with the class of each row in `owners`.
    """

    weight: Tensor
    bias: Tensor
    rows: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(self, student: nn.Module, text: Tensor, bias: Tensor, owners: Sequence[int] = ()) -> None:
        super().__init__()
        self.student = student
        self.divisor: int = int(student.divisor)  # type: ignore[arg-type]
        self.register_buffer("weight", text[:, :, None, None].clone())
        self.register_buffer("bias", -bias.clone()[list(owners)] if owners else -bias.clone())
        self.register_buffer("rows", _rows_of(owners) if owners else None)
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        height, width, step = image.shape[2], image.shape[3], self.divisor
        pixels = (image.float() - self.mean) / self.std
        size = [(height + step - 1) // step * step, (width + step - 1) // step * step]
        features = self.student(F.interpolate(pixels, size=size, mode="bilinear"))
        scores = F.conv2d(features, self.weight, self.bias)
        if self.rows is not None:
            scores = scores[:, self.rows].amax(2)
        fine = F.interpolate(scores, size=[height, width], mode="bilinear")
        wide = scores.shape[1] > MOST_IN_A_BYTE
        return fine.argmax(1).to(torch.int32 if wide else torch.uint8), scores

    @property
    def smallest(self) -> int:
        """Shortest side of a photo that it accepts, in pixels."""
        return self.divisor + 1


def _rows_of(owners: Sequence[int]) -> Tensor:
    """Rows of each class, int64 [K, T]; a class of fewer than T has its first row several times."""
    rows = [[row for row, owner in enumerate(owners) if owner == k] for k in range(max(owners) + 1)]
    most = max(map(len, rows))
    return torch.tensor([own + own[:1] * (most - len(own)) for own in rows])


def traced(photo: PhotoStudent) -> torch.export.ExportedProgram:
    """The module as a graph of any height and width from `photo.smallest` to LARGEST. Raises InputError."""
    sides = {
        2: torch.export.Dim("height", min=photo.smallest, max=LARGEST),
        3: torch.export.Dim("width", min=photo.smallest, max=LARGEST),
    }
    # Sides that are no multiple of the stride, and differ, so that neither is taken for a constant.
    example = torch.zeros((1, 3, 2 * photo.divisor + 8, 3 * photo.divisor + 8), dtype=torch.uint8)
    try:
        with _quiet():
            return torch.export.export(
                photo, (example,), dynamic_shapes=(sides,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:  # torch.export raises whatever its tracer meets
        raise InputError(
            f"this student can't be traced ({_reason(error)}); use --format safetensors, or another student"
        ) from error


def onnx_bytes(program: torch.export.ExportedProgram, opset: int, about: dict[str, Any]) -> bytes:
    """An ONNX model with input `image` and outputs `labels`, `scores`; `about` is its metadata `clip2seg`."""
    need_onnx()
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                opset_version=opset,
                input_names=["image"],
                output_names=["labels", "scores"],
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever an operation without a translation meets
        raise InputError(
            f"--format onnx: this student has no ONNX form ({_reason(error)}); use --format torch-export"
        ) from error
    assert made is not None
    model = made.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "clip2seg", json.dumps(about, sort_keys=True)
    packed: bytes = model.SerializeToString()
    return packed


def torch_export_bytes(program: torch.export.ExportedProgram) -> bytes:
    """A torch.export archive (.pt2)."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def pytorch_runner(photo: PhotoStudent) -> Runner:
    """The module itself: what an export is compared with."""
    return _torch_runner(photo.cpu().eval())


def torch_export_runner(packed: bytes) -> Runner:
    """A torch.export archive read back."""
    with _quiet():
        return _torch_runner(torch.export.load(io.BytesIO(packed)).module())


def onnx_runner(packed: bytes) -> Runner:
    """An ONNX model under onnxruntime, on the CPU."""
    need_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(packed, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for each reason
        raise InputError(
            f"--format onnx: onnxruntime can't run this file ({_reason(error)}); nothing was written; use "
            f"--opset {OPSET}"
        ) from error

    def run(image: Array) -> tuple[Array, NDArray[np.float32]]:
        try:
            labels, scores = session.run(["labels", "scores"], {"image": image.transpose(2, 0, 1)[None]})
        except Exception as error:
            height, width = image.shape[:2]
            raise InputError(
                f"--format onnx: onnxruntime fails on a photo of {height} x {width} pixels ({_reason(error)}); nothing "
                "was written. Pooling whose windows depend on the photo's size has no exact ONNX form: use --format "
                "torch-export, or another student"
            ) from error
        return labels[0], scores[0]

    return run


@dataclass(frozen=True)
class Agreement:
    """How an export compares with PyTorch over some photos."""

    photos: int
    pixels: int
    same: int
    """Pixels with the same class."""
    largest_difference: float
    """Largest difference of two scores."""
    largest_score: float
    """Largest absolute score, to judge the difference by."""

    @property
    def share(self) -> float:
        """Share of pixels with the same class."""
        return self.same / self.pixels


def compare(ours: Runner, theirs: Runner, photos: Sequence[Array]) -> Agreement:
    """Runs both on every photo."""
    pixels = same = 0
    difference = score = 0.0
    for photo in photos:
        (labels, scores), (other_labels, other_scores) = ours(photo), theirs(photo)
        pixels, same = pixels + labels.size, same + int((labels == other_labels).sum())
        difference = max(difference, float(np.abs(scores - other_scores).max()))
        score = max(score, float(np.abs(scores).max()))
    return Agreement(len(photos), pixels, same, difference, score)


def _torch_runner(module: Callable[..., Any]) -> Runner:
    def run(image: Array) -> tuple[Array, NDArray[np.float32]]:
        with torch.no_grad():
            labels, scores = module(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None])
        return labels[0].numpy(), scores[0].numpy()

    return run


def need_onnx() -> None:
    """Raises InputError where a package is missing that ONNX export needs."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx: needs {error.name}; run `pip install onnx onnxscript onnxruntime`, or use another format"
        ) from error


def _reason(error: Exception) -> str:
    """An exporter's complaint on one line: its bulleted reasons where it gives any, not the heading above them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    bullets = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return "; ".join(bullets or lines[:1])[:400]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print progress and warn of their own internals; neither tells the user anything to do."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
