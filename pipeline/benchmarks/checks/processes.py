"""What takes processes of its own: a group on nccl, and the stages as a user starts them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from pipeline.benchmarks.checks.bench import Bench, Failed, at_least, at_most, no_waits
from pipeline.benchmarks.checks.students import FAMILIES, made_batch, made_learner, terms_and_gradient
from stages.parts.settings import DistillConfig

SMALL = ("demo-world.train=48", "demo-world.val=16", "extract.batch=16", "extract.shard=16")
STAGES = ("extract", "mine-latent", "train", "eval")
STAGE_SECONDS = 60
"""A stage of the small demo that takes longer hangs, or the machine is busy with something else."""


def one_process_group(bench: Bench) -> str:
    """DistributedDataParallel and every collective in a group of one process: nccl, and gloo for the host's words."""
    learner, batch = made_learner(FAMILIES["segformer"], DistillConfig(negatives="batch")), made_batch(0)
    wanted, exact = terms_and_gradient(copy.deepcopy(learner), batch, bench.device, "fp32")
    backend = "cpu:gloo,cuda:nccl" if bench.gpu else "gloo"
    store = f"file://{bench.world.folder}/group"
    dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        learner = learner.to(bench.device).eval()
        shared = DistributedDataParallel(learner)
        terms = shared(batch.to(bench.device))
        terms["total"].backward()
        found = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]).double().cpu()
        for _ in range(2):  # it sorts its buckets anew after the first pass
            shared(batch.to(bench.device))["total"].backward()
        if bench.gpu:
            pinned = made_batch(1).pin_memory()
            with no_waits(bench):
                shared(pinned.to(bench.device))["total"].backward()
    finally:
        dist.destroy_process_group()
    off = max(abs(terms[k].item() - v) / max(abs(v), 0.05) for k, v in wanted.items())
    cosine = float(functional.cosine_similarity(found, exact, dim=0)) if len(found) == len(exact) else 0.0
    return f"{at_most(off, 1e-3, 'terms')}, {at_least(cosine, 0.999, 'gradient')}"


def stages(bench: Bench) -> str:
    """extract, mine-latent, train, eval of a small demo as a user starts them, with loader processes."""
    chosen = [*SMALL, "train.iterations=30", "train.warmup=5", "eval.min_pixels=1"]
    options = [word for one in chosen for word in ("--set", one)]
    taken = []
    path = os.pathsep.join(p for p in sys.path if p)
    with tempfile.TemporaryDirectory(prefix="clip2seg-check-") as folder:
        for stage in STAGES:
            start = time.perf_counter()
            done = subprocess.run(
                [
                    *(sys.executable, "-c", "from pipeline.cli import main; main()", stage, "demo", *options),
                    *("--device", bench.device.type, "--workers", "2", "--artifacts", folder),
                ],
                capture_output=True,
                text=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
                timeout=STAGE_SECONDS,
            )
            if done.returncode:
                raise Failed(f"{stage}: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
            taken.append(f"{stage} {time.perf_counter() - start:.0f} s")
    return ", ".join(taken)
