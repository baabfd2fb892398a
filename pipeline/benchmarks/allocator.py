"""Training steps on the CPU with and without `pipeline.run.keep_freed_memory`, each in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import torch

from pipeline.benchmarks.harness import Measured, result, seconds
from pipeline.benchmarks.training import fixed_batch, untrained_trainer
from pipeline.config import load_config
from pipeline.run import keep_freed_memory

STEPS = 4


def allocator(device: torch.device, rounds: int, preset: str = "demo") -> dict[str, Any]:
    """Seconds a step of a preset's student with freed memory kept by glibc, and as it comes."""
    measured = Measured({"kept": [], "as it comes": []})
    for turn in range(rounds):
        for name in list(measured.seconds)[:: -1 if turn % 2 else 1]:
            measured.seconds[name].append(_in_child(preset, name == "kept"))
    rows = {name: {"s a step": round(measured.median(name), 4)} for name in measured.seconds}
    ratios = {"as it comes / kept": measured.ratio("as it comes", "kept")}
    return result("allocator", device, {"preset": preset, "steps": STEPS, "rounds": rounds}, rows, ratios)


def _in_child(preset: str, kept: bool) -> float:
    code = (
        "import sys; from pipeline.benchmarks.allocator import step_seconds; "
        "print(step_seconds(sys.argv[1], bool(int(sys.argv[2]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, preset, str(int(kept))],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(json.loads(done.stdout.splitlines()[-1]))


def step_seconds(preset: str, kept: bool) -> float:
    """What a child runs: the least seconds of some steps on a batch in memory."""
    if kept:
        keep_freed_memory()
    config, cpu = load_config(preset, ["student.weights=''"]), torch.device("cpu")
    trainer = untrained_trainer(config, config.student, 8, 64, cpu)
    batch = fixed_batch(config.train.batch, config.views.size, 8, 64)
    trainer.step(0, batch)
    return min(seconds(lambda: trainer.step(0, batch), cpu) for _ in range(STEPS))
