"""Losses, gradients, weights and layouts on the device against those of the CPU."""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.benchmarks.checks.bench import CPU, Bench, Failed, at_least, at_most, no_waits
from pipeline.benchmarks.checks.students import (
    FAMILIES,
    GRADIENTS,
    SIDE,
    TERMS,
    made_batch,
    made_learner,
    made_trainer,
    terms_and_gradient,
)
from stages.parts.learning.pixel_sums import pixel_sums
from stages.parts.learning.trainer import make_optimiser
from stages.parts.settings import TrainConfig
from stages.parts.students.checkpoint import pack_state, unpack_state


def losses(bench: Bench) -> str:
    """Every loss term and the gradient of all weights, in each precision, against float32 on the CPU."""
    worst: dict[str, tuple[float, float]] = dict.fromkeys(TERMS, (0.0, 1.0))
    for net in FAMILIES.values():
        learner, batch = made_learner(net), made_batch(0)
        wanted, exact = terms_and_gradient(copy.deepcopy(learner), batch, CPU, "fp32")
        for precision in TERMS:
            if not bench.gpu and precision == "fp16":
                continue
            terms, gradient = terms_and_gradient(copy.deepcopy(learner), batch, bench.device, precision)
            off = max(abs(terms[k] - v) / max(abs(v), 0.05) for k, v in wanted.items())
            cosine = float(functional.cosine_similarity(gradient, exact, dim=0))
            worst[precision] = (max(worst[precision][0], off), min(worst[precision][1], cosine))
    parts = [f"{p}: terms {off:.2g}, gradient's cosine {cosine:.5f}" for p, (off, cosine) in worst.items()]
    if any(off > TERMS[p] or cosine < GRADIENTS[p] for p, (off, cosine) in worst.items()):
        raise Failed(f"{'; '.join(parts)}; bounds {TERMS}, {GRADIENTS}")
    return "; ".join(parts)


def pixel_loss(bench: Bench) -> str:
    """Sums and gradient of the pixel loss in float32 on the device against float64 on the CPU, 171 classes."""
    random = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(2, 171, 32, 32, generator=random)
    labels = torch.randint(0, 172, (2, SIDE, SIDE), generator=random)
    labels[labels == 171] = 255
    worst = {False: 0.0, True: 0.0}
    for negatives in (True, False):
        made = []
        for device, dtype, fused in (
            (CPU, torch.float64, False),
            (bench.device, torch.float32, False),
            (bench.device, torch.float32, bench.gpu),  # the compiler for processors takes a minute, and may be missing
        ):
            leaf = logits.detach().clone().to(device, dtype).requires_grad_()
            terms = torch.stack(pixel_sums(leaf, labels.to(device), negatives, compiled=fused))
            (gradient,) = torch.autograd.grad(terms.sum(), leaf)
            made.append((terms.detach().double().cpu(), gradient.double().cpu()))
        (terms, gradient), *others = made
        for fused, (found, slope) in zip((False, True), others, strict=True):
            off = float(((found - terms) / terms).abs().max()), float((slope - gradient).norm() / gradient.norm())
            worst[fused] = max(worst[fused], *off)
    parts = [at_most(off, 1e-4, f"{'compiled' if fused else 'eager'}: off by") for fused, off in worst.items()]
    return ", ".join(parts)


def resumed(bench: Bench) -> str:
    """Six steps in one go, and three, a checkpoint, and three more in another trainer: the weights."""
    net = FAMILIES["segformer"]

    def weights(stop: int) -> Tensor:
        trainer = made_trainer(made_learner(net), bench.device)
        for step in range(6):
            if step == stop:
                packed = pack_state({"learner": trainer.learner}, trainer.optimiser, {"iteration": step})
                trainer = made_trainer(made_learner(net), bench.device)
                unpack_state(packed, {"learner": trainer.learner}, trainer.optimiser, "state")
            trainer.step(step, made_batch(step).to(bench.device))
        return torch.cat([p.detach().flatten().double().cpu() for p in trainer.learner.parameters()])

    whole, again, broken = weights(-1), weights(-1), weights(3)
    noise, off = float((whole - again).abs().max()), float((whole - broken).abs().max())
    if off > max(3 * noise, 1e-7):
        raise Failed(f"largest difference {off:.3g}, of two unbroken runs {noise:.3g}")
    return "equal to the bit" if off == 0 else f"largest difference {off:.2g}, of two unbroken runs {noise:.2g}"


def adamw(bench: Bench) -> str:
    """The fused optimiser's step from the same gradients, on the device and on the CPU."""
    made = []
    for device in (CPU, bench.device):
        learner = made_learner(FAMILIES["segformer"]).to(device)
        optimiser = make_optimiser(learner, TrainConfig(lr=1e-3))
        if not all(group["fused"] for group in optimiser.param_groups):
            raise Failed("the optimiser isn't fused")
        random = torch.Generator().manual_seed(4)
        for _ in range(3):
            for p in learner.parameters():
                p.grad = torch.randn(p.shape, generator=random).to(device)
            optimiser.step()
        made.append(torch.cat([p.detach().flatten().cpu() for p in learner.parameters()]))
    return at_most(float((made[0] - made[1]).abs().max()), 1e-5, "largest difference of a weight")


def channels_last(bench: Bench) -> str:
    """Kernels and features lie as the images do, and the features are those of the other layout."""
    trainer = made_trainer(made_learner(FAMILIES["unet"]), bench.device)
    images = made_batch(0).to(bench.device).student_input()
    student = trainer.learner.student.eval()
    wide = [m for m in student.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1 < m.weight.shape[2]]
    if not all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in wide):
        raise Failed("a kernel isn't channels-last")
    with torch.no_grad():
        found = student(images)
        if not found.is_contiguous(memory_format=torch.channels_last):
            raise Failed("features aren't channels-last")
        plain = copy.deepcopy(student).to(memory_format=torch.contiguous_format)(images.contiguous())
    return at_most(float((found - plain).norm() / plain.norm()), 5e-3, "relative difference")


def compiled(bench: Bench) -> str:
    """A compiled student's losses against the eager one's, and no compiling again for other regions."""
    eager, batch = made_learner(FAMILIES["segformer"]), made_batch(0)
    wanted, exact = terms_and_gradient(copy.deepcopy(eager), batch, bench.device, "fp32")
    start = time.perf_counter()
    trainer = made_trainer(eager, bench.device, compiled=True)
    terms, gradient = terms_and_gradient(trainer.learner, batch, bench.device, "fp32")
    off = max(abs(terms[k] - v) / max(abs(v), 0.05) for k, v in wanted.items())
    cosine = float(functional.cosine_similarity(gradient, exact, dim=0))
    trainer.optimiser.zero_grad()
    trainer.step(0, batch.to(bench.device))
    trainer.step(1, made_batch(1).to(bench.device))
    taken = time.perf_counter() - start
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for step in (2, 3):
            trainer.step(step, made_batch(step).to(bench.device))
    finally:
        torch.compiler.set_stance("default")
    parts = [at_most(off, TERMS["fp32"], "terms"), at_least(cosine, GRADIENTS["fp32"], "gradient's cosine")]
    if bench.gpu:
        with no_waits(bench):
            trainer.step(4, made_batch(4).pin_memory().to(bench.device))
        parts.append("no wait")
    return f"{', '.join(parts)}; {taken:.0f} s to compile"
