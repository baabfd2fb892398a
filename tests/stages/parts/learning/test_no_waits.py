"""A training step asks its device nothing, and mixes no devices: on tensors that pretend to be a GPU's.

torch's FakeTensorMode gives every operation its shapes and devices and no values: it refuses operands of two
devices, and raises wherever the host would have to wait for a value (`.item()`, boolean indexing, `nonzero`). Numbers
of the host's that go to the device on the way, as in `x[[0, 2]]`, it lets pass: `_NoCopies` finds those.
Autograd's engine needs a real GPU, so the backward pass is left out here, but for the gradient that is our own.
`clip2seg benchmark gpu-check` runs the same steps on a GPU under torch.cuda.set_sync_debug_mode("error").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.benchmarks.checks.students import FAMILIES, GENERATORS, LOSSES, SmallNet
from stages.parts.data.photometric import draw_distortion
from stages.parts.learning.batches import Batch, Sample, collate
from stages.parts.learning.learner import Learner
from stages.parts.learning.pixel_sums import _PixelSums
from stages.parts.learning.trainer import Trainer, make_optimiser
from stages.parts.scoring.bias_curve import BiasCurve
from stages.parts.scoring.inference import class_scores, every_scores, label_map, pixel_counts, student_scorer
from stages.parts.settings import DistillConfig, EvaluateConfig, GeneratorConfig, PixelLossConfig, TrainConfig
from stages.parts.students import StudentConfig, build_student

GPU = torch.device("cuda")
DIM, SEEN, SIDE = 16, 3, 64


class _NoCopies(TorchDispatchMode):
    """Refuses copies between host and device that the host would wait for, those of an index's numbers too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            ends = {args[0].device.type, torch.device(kwargs.get("device") or args[0].device).type}
            if len(ends) > 1 and not kwargs.get("non_blocking"):
                raise RuntimeError(f"a copy of {tuple(args[0].shape)} to {kwargs['device']} that the host waits for")
        elif func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            where = {t.device.type for t in (args[0], *args[1]) if t is not None}
            if len(where) > 1:
                raise RuntimeError("an index on the host, into a tensor of the device")
        return func(*args, **kwargs)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of a GPU that isn't there, autocast that believes in it, and a backward pass that makes gradients up."""
    monkeypatch.setattr("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(Learner, "to", lambda self, **_: self)  # fake parameters can't change their layout in place
    monkeypatch.setattr(Tensor, "backward", lambda self: None)
    with FakeTensorMode():
        yield


def sample(i: int) -> Sample:
    """A crop of two seen and two latent regions, or of one seen region."""
    ids = [0, 2, SEEN, SEEN + 1] if i % 2 == 0 else [1]
    mask = np.array(ids, np.uint8)[np.arange(SIDE) * len(ids) // SIDE]
    local = np.zeros((len(ids), DIM), np.float16)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    crop, concepts = (pixels, draw_distortion(i), np.tile(mask, (SIDE, 1))), np.arange(len(ids)) - 2
    withheld = np.arange(SEEN) == i
    return Sample(*crop, np.zeros(DIM, np.float16), local, np.array(ids), concepts, withheld=withheld)


def batch() -> Batch:
    """What a loader hands over, on the device."""
    return collate([sample(i) for i in range(4)]).to(GPU)


def few_labels() -> Batch:
    """The same where the masks of two of the photos were not read."""
    pseudo = np.zeros((SIDE, SIDE), np.uint8)
    return collate([replace(sample(i), labelled=i % 3 == 0, pseudo=pseudo) for i in range(4)]).to(GPU)


def on_gpu(build: Callable[[], nn.Module]) -> Any:
    """A module built as usual, then with each parameter and buffer pretended to lie on the GPU."""
    with unset_fake_temporarily():
        made = build()
    for module in made.modules():
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(value.shape, device=GPU), value.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU))
    return made


def trainer(
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    generator: GeneratorConfig = GeneratorConfig(),  # noqa: B008
    student: Callable[[], Any] = lambda: SmallNet(DIM),
    prototypes: bool = False,
    pixel: PixelLossConfig = PixelLossConfig(),  # noqa: B008
    **train: Any,
) -> Trainer:
    cfg = TrainConfig(iterations=10, warmup=0, batch=4, **train)
    text = np.zeros((SEEN, DIM), np.float32)
    concepts = np.zeros((2, DIM), np.float32) if prototypes else None

    def build() -> Learner:
        shared = None if concepts is None else torch.from_numpy(concepts)
        return Learner(student(), torch.from_numpy(text), distill, generator, pixel, shared)

    learner = on_gpu(build)
    made = Trainer(cfg, learner, make_optimiser(learner, cfg), GPU)
    for parameter in learner.parameters():
        parameter.grad = torch.empty_like(parameter)
    made.optimiser.zero_grad = lambda **_: None  # type: ignore[method-assign]
    return made


def check(made: Trainer, given: Callable[[], Batch] = batch) -> None:
    with _NoCopies():
        terms = made.step(0, given())
    assert {t.device.type for t in terms.values()} == {"cuda"}
    assert {t.dtype for t in terms.values()} == {torch.float32}


@pytest.mark.parametrize("net", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.usefixtures("pretended")
def test_the_step_of_every_family_of_students_waits_for_nothing(net: StudentConfig) -> None:
    check(trainer(student=lambda: build_student(net, DIM), precision="bf16"))


@pytest.mark.parametrize("distill", LOSSES.values(), ids=LOSSES)
@pytest.mark.usefixtures("pretended")
def test_the_step_of_every_loss_negatives_and_calibrator_waits_for_nothing(distill: DistillConfig) -> None:
    for generator in GENERATORS:
        check(trainer(distill, generator))


@pytest.mark.usefixtures("pretended")
def test_the_step_with_concepts_for_latent_classes_waits_for_nothing() -> None:
    for generator in GENERATORS:
        check(trainer(generator=generator, prototypes=True))


@pytest.mark.parametrize("generator", [GeneratorConfig(), GeneratorConfig(enabled=False)], ids=["latent", "seen alone"])
@pytest.mark.usefixtures("pretended")
def test_the_step_with_photos_without_masks_waits_for_nothing(generator: GeneratorConfig) -> None:
    for unlabelled in ("none", "latent"):
        pixel = PixelLossConfig.model_validate({"unlabelled": unlabelled, "pseudo_weight": 0.5})
        check(trainer(generator=generator, pixel=pixel), few_labels)


@pytest.mark.usefixtures("pretended")
def test_parts_of_a_batch_clipping_and_other_switches_wait_for_nothing() -> None:
    check(trainer(grad_accumulation_steps=2, max_grad_norm=1.0, precision="fp32"))
    check(trainer(DistillConfig(use_global=False, use_local=False)))


@pytest.mark.usefixtures("pretended")
def test_the_gradient_of_the_pixel_loss_waits_for_nothing() -> None:
    class Kept:
        def save_for_backward(self, *tensors: Tensor) -> None:
            self.saved_tensors = tensors

    for ignored_are_negatives in (True, False):
        logits = torch.empty(3, 5, 8, 8, device=GPU)
        labels = torch.zeros(3, 32, 32, dtype=torch.long, device=GPU)
        kept: Any = Kept()
        terms = _PixelSums.forward(kept, logits, labels, ignored_are_negatives, False, None)
        gradient, *_ = _PixelSums.backward(kept, *terms)
        assert gradient.shape == logits.shape and gradient.device.type == "cuda"


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_scores_of_an_image_wait_for_nothing(mode: Any) -> None:
    student = on_gpu(lambda: SmallNet(DIM).eval())
    score = student_scorer(student, torch.empty(SEEN, DIM, device=GPU))
    cfg = EvaluateConfig(mode=mode, short_side=SIDE, crop=SIDE, stride=32)
    image = np.zeros((50, 70, 3), np.uint8)
    found = class_scores(score, image, cfg, 2, GPU)
    assert found.shape == (SEEN, 50, 70) and found.device.type == "cuda"
    curve = BiasCurve(np.linspace(-1, 1, 5), 2, SEEN, GPU)
    for _, found in every_scores(score, [image, image, image[:40]], cfg, 2, GPU):
        labels = label_map(found)
        truth = torch.zeros(labels.shape, dtype=torch.uint8, device=GPU)
        assert pixel_counts(labels, truth, SEEN).shape == (SEEN * SEEN + 1,)
        curve.add(found, truth)


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (lambda b, x: int(x.max()), DataDependentOutputException),
        (lambda b, x: x[x > 0], DynamicOutputShapeException),
        (lambda b, x: x + torch.zeros(SIDE), RuntimeError),
        (lambda b, x: b.images.cpu(), RuntimeError),
        (lambda b, x: x[[0, 2]], RuntimeError),
        (lambda b, x: x[torch.arange(2)], RuntimeError),
        (lambda b, x: torch.tensor([0.0], device=x.device), RuntimeError),
    ],
    ids=["value", "shape", "device", "to the host", "list", "index of the host", "to the device"],
)
@pytest.mark.usefixtures("pretended")
def test_the_pretended_gpu_finds_what_it_is_here_for(mistake: Any, error: type[Exception]) -> None:
    with _NoCopies(), pytest.raises(error):
        mistake(batch(), torch.empty(SIDE, SIDE, device=GPU))
