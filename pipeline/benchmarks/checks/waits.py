"""Training steps that must not make the host wait for its GPU."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional

from pipeline.benchmarks.checks.bench import Bench, Failed, Skipped, no_waits
from pipeline.benchmarks.checks.students import (
    DIM,
    FAMILIES,
    FEW,
    GENERATORS,
    LOSSES,
    SEEN,
    SmallNet,
    few_labels_batch,
    made_batch,
    made_learner,
    made_trainer,
)
from stages.parts.learning.learner import Learner
from stages.parts.settings import DistillConfig, GeneratorConfig, PixelLossConfig


def student_waits(bench: Bench, family: str) -> str:
    """Steps of a family under set_sync_debug_mode("error"), the batch's way to the device included."""
    if not bench.gpu:
        raise Skipped("needs a GPU")
    took = []
    for precision in ("bf16", "fp32"):
        start = time.perf_counter()
        trainer = made_trainer(made_learner(FAMILIES[family]), bench.device, precision=precision, max_grad_norm=1.0)
        built = time.perf_counter()
        for step in range(2):
            trainer.step(step, made_batch(step).to(bench.device))
        pinned = [made_batch(seed).pin_memory() for seed in (2, 3)]
        with no_waits(bench):
            for step, batch in enumerate(pinned):
                try:
                    trainer.step(2 + step, batch.to(bench.device))
                except RuntimeError as error:
                    raise Failed(f"{precision}: {str(error).splitlines()[0]}") from error
        took.append(f"{precision}: built in {built - start:.1f} s, 4 steps in {time.perf_counter() - built:.1f} s")
    return f"no wait; {', '.join(took)}"


def settings_wait(bench: Bench) -> str:
    """Steps of every loss x negatives x calibrator under set_sync_debug_mode("error")."""
    counted, batch = 0, made_batch(0).to(bench.device)
    text = functional.normalize(torch.randn(SEEN, DIM), dim=1)
    for name, distill in LOSSES.items():
        for generator in GENERATORS:
            net: Any = SmallNet()
            trainer = made_trainer(Learner(net, text, distill, generator, PixelLossConfig()), bench.device)
            trainer.step(0, batch)
            with no_waits(bench):
                try:
                    trainer.step(1, batch)
                except RuntimeError as error:
                    raise Failed(f"{name}, {generator}: {str(error).splitlines()[0]}") from error
            counted += 1
    return f"{counted} steps without a wait"


def few_labels(bench: Bench) -> str:
    """Steps with photos without masks, and plain ones with the pixel loss compiled, as long trainings have it."""
    text = functional.normalize(torch.randn(SEEN, DIM), dim=1)
    for name, pixel, batches in (("few labels", FEW, few_labels_batch), ("compiled", PixelLossConfig(), made_batch)):
        net: Any = SmallNet()
        trainer = made_trainer(Learner(net, text, DistillConfig(), GeneratorConfig(), pixel), bench.device)
        if name == "compiled":
            trainer.learner.compile_parts(student=False)
        for step in range(2):
            trainer.step(step, batches(step).to(bench.device))
        pinned = batches(2).pin_memory()
        with no_waits(bench):
            try:
                trainer.step(2, pinned.to(bench.device))
            except RuntimeError as error:
                raise Failed(f"{name}: {str(error).splitlines()[0]}") from error
    return "no wait with few labels, nor with a compiled pixel loss"
