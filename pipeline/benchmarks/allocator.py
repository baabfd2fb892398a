"""Training steps on the CPU with and without `pipeline.machine.keep_freed_memory`, each in processes of its own."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.benchmarks.harness import Measured, in_child, result, seconds
from pipeline.benchmarks.training import fixed_batch, untrained_trainer
from pipeline.config import load_config
from pipeline.machine import keep_freed_memory

STEPS = 4


def allocator(device: torch.device, rounds: int, preset: str = "demo") -> dict[str, Any]:
    """Seconds a step of a preset's student with freed memory kept by glibc, and as it comes."""
    measured = Measured({"kept": [], "as it comes": []})
    for turn in range(rounds):
        for name in list(measured.seconds)[:: -1 if turn % 2 else 1]:
            measured.seconds[name].append(in_child(step_seconds, preset, name == "kept"))
    rows = {name: {"s a step": round(measured.median(name), 4)} for name in measured.seconds}
    ratios = {"as it comes / kept": measured.ratio("as it comes", "kept")}
    return result("allocator", device, {"preset": preset, "steps": STEPS, "rounds": rounds}, rows, ratios)


def step_seconds(preset: str, kept: bool) -> float:
    """What a child runs: the least seconds of some steps on a batch in memory."""
    if kept:
        keep_freed_memory()
    config, cpu = load_config(preset, ["student.weights=''"]), torch.device("cpu")
    trainer = untrained_trainer(config, config.student, 8, 64, cpu)
    batch = fixed_batch(config.train.batch, config.views.size, 8, 64)
    trainer.step(0, batch)
    return min(seconds(lambda: trainer.step(0, batch), cpu) for _ in range(STEPS))
