"""The teacher's tokens, latent cells, k-means and scores of the demo's images against the CPU's."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from pipeline.benchmarks.checks.bench import CPU, Bench, Skipped, at_least, at_most, no_waits
from pipeline.benchmarks.checks.students import DIM, FAMILIES, SEEN, SIDE
from stages.parts.mining.clustering import bare_kmeans, gpus
from stages.parts.mining.miner import Miner
from stages.parts.scoring.inference import class_scores, predicted, student_scorer
from stages.parts.settings import EvaluateConfig
from stages.parts.students import build_student
from stages.parts.teacher.crops import TeacherBatch, TeacherViews, collate_views
from stages.parts.teacher.teacher import Teacher
from stages.parts.teacher.tokens import encode


def _views(bench: Bench, device: torch.device) -> tuple[Teacher, TeacherBatch]:
    """The demo's teacher on a device, and its first eight views on the host."""
    world = bench.world
    one = world.teacher(device)
    source = TeacherViews(world.data, world.plan.config.views, one.input_size, one.crop_size)
    return one, collate_views([source[row] for row in range(8)])


def teacher(bench: Bench) -> str:
    """Tokens of the demo's teacher in float32 against the CPU's; encoding waits for nothing before its results."""
    cfg = bench.world.plan.config
    made = []
    for device in (CPU, bench.device):
        one, batch = _views(bench, device)
        if device.type == "cuda":
            pinned = batch.pin_memory()
            encode(one, pinned, cfg.extract).arrays()
            with no_waits(bench):
                pending = encode(one, pinned, cfg.extract)
            made.append(pending.arrays())
        else:
            made.append(encode(one, batch, cfg.extract).arrays())
    flat = [[torch.from_numpy(a[k].astype(np.float32).reshape(-1, one.dim)) for k in sorted(a)] for a in made]
    least = min(float(functional.cosine_similarity(a, b, dim=1).min()) for a, b in zip(*flat, strict=True))
    return at_least(least, 0.999, "least cosine of a token")


def mining(bench: Bench) -> str:
    """Latent cells from the device's dense tokens against those from the CPU's."""
    world, cfg = bench.world, bench.world.plan.config
    cells = []
    for device in (CPU, bench.device):
        one, batch = _views(bench, device)
        dense = encode(one, batch, cfg.extract).arrays()["dense"].astype(np.float32)
        miner = Miner(cfg.mine_latent, world.data, cfg.views, one.crop_size, gpu=False)
        cells.append(np.stack([miner.mine(row, dense[row]).cells for row in range(8)]))
    return at_least(float((cells[0] == cells[1]).mean()), 0.98, "share of equal cells")


def faiss_gpu(bench: Bench) -> str:
    """k-means of faiss on the GPU against its CPU form: the same clusters."""
    if not bench.gpu or not gpus():
        raise Skipped("faiss sees no GPU here (faiss-cpu, or CUDA libraries that its wheel needs are missing)")
    random = np.random.default_rng(31)
    points = functional.normalize(torch.from_numpy(random.standard_normal((900, 512)).astype(np.float32)), dim=1)
    start = points[::60].numpy()
    same = [bare_kmeans(points.numpy(), start, 10, on)[1].ravel() for on in (False, True)]
    return at_least(float((same[0] == same[1]).mean()), 0.99, "share of equal assignments")


def evaluation(bench: Bench) -> str:
    """Scores and labels of a student on whole images and in windows against the CPU's."""
    torch.manual_seed(6)
    student = build_student(FAMILIES["segformer"], DIM).eval()
    text = functional.normalize(torch.randn(SEEN, DIM), dim=1)
    parts = []
    for mode in ("whole", "slide"):
        cfg = EvaluateConfig.model_validate({"mode": mode, "short_side": SIDE, "crop": 96, "stride": 64})
        off, equal = 0.0, []
        for i in range(4):
            image, made = bench.world.data.image(i), []
            for device in (CPU, bench.device):
                score = student_scorer(student.to(device), text.to(device))
                made.append(class_scores(score, image, cfg, 3, device))
            off = max(off, float((made[0] - made[1].cpu()).abs().max() / made[0].std()))
            equal.append(float((predicted(made[0]) == predicted(made[1])).mean()))
        same = at_least(float(np.mean(equal)), 0.97, "share of equal labels")
        parts.append(f"{mode}: {at_most(off, 0.05, 'scores, in deviations,')}, {same}")
    return "; ".join(parts)
