"""Does a GPU compute what the CPU does, and does no step wait for it? `clip2seg benchmark gpu-check`.

Each check says what it measured and its bound; a check that fails, or can't run, doesn't stop the others. All of it
runs on drawn data and small networks, without installing or downloading anything, in less than four minutes.
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from pipeline.benchmarks.harness import machine_line, result
from pipeline.benchmarks.world import World, open_world
from stages.parts.data.photometric import draw_distortion
from stages.parts.learning.batches import Batch, Regions
from stages.parts.learning.learner import Learner
from stages.parts.learning.pixel_sums import pixel_sums
from stages.parts.learning.trainer import Trainer, autocast_dtype, make_optimiser
from stages.parts.mining.clustering import bare_kmeans, gpus
from stages.parts.mining.miner import Miner
from stages.parts.scoring.inference import class_scores, predicted, student_scorer
from stages.parts.settings import DistillConfig, EvaluateConfig, GeneratorConfig, PixelLossConfig, TrainConfig
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.checkpoint import pack_state, unpack_state
from stages.parts.teacher.crops import TeacherViews, collate_views
from stages.parts.teacher.tokens import encode
from stages.running.progress import say

CPU = torch.device("cpu")
DIM, SEEN, SIDE = 64, 5, 128
FAMILIES = {
    "unet": StudentConfig(arch="unet", encoder="resnet18", weights=""),
    "segformer": StudentConfig(arch="segformer", encoder="mit_b0", weights=""),
    "segnext": StudentConfig(arch="segnext", encoder="mscan_t", weights=""),
    "setr": StudentConfig(arch="setr", encoder="vit_b16", weights=""),
}
SMALL = ("demo-world.train=48", "demo-world.val=16", "extract.batch=16", "extract.shard=16")
STAGES = ("extract", "mine-latent", "train", "eval")
STAGE_SECONDS = 60
"""A stage of the small demo that takes longer hangs, or the machine is busy with something else."""
CHECK_SECONDS = 100
"""A check that takes longer is a failure, and the others have their turn: the stages take the longest, some 80 s."""
TERMS = {"fp32": 5e-3, "bf16": 0.05, "fp16": 0.02}
"""Most relative difference of a loss term between a GPU in this precision and the CPU in float32."""
GRADIENTS = {"fp32": 0.999, "bf16": 0.9, "fp16": 0.95}
"""Least cosine between the gradients of all weights."""


class Failed(Exception):
    """A bound that isn't kept: what was measured, and the bound."""


class TookTooLong(Exception):
    """A check that had CHECK_SECONDS and isn't done."""


class Skipped(Exception):
    """A check that this machine can't run, and why."""


@dataclass(frozen=True)
class Bench:
    """The device under test, and the demo's world with its teacher."""

    device: torch.device
    world: World

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU: what only a GPU can show is skipped elsewhere."""
        return self.device.type == "cuda"


def gpu_check(device: torch.device, only: Sequence[str] = ()) -> dict[str, Any]:
    """Runs every check (or those named); the verdicts as a benchmark's result, those that failed under `failed`."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="clip2seg-check-") as folder:
        bench = Bench(device, open_world("demo", 16, SMALL, "", Path(folder)))
        for name, check in CHECKS.items():
            if only and name not in only:
                continue
            start = time.perf_counter()
            verdict, found = _verdict(check, bench)
            rows[name] = {"verdict": verdict, "s": round(time.perf_counter() - start, 1), "measured": found}
            say(f"{verdict:7} {name}: {found}")
    made = result("gpu-check", device, {"checks": len(rows), **_versions()}, rows, {})
    return {**made, "failed": [name for name, row in rows.items() if row["verdict"] == "FAILED"]}


def check_text(found: dict[str, Any]) -> str:
    """Verdicts one a line, then the machine."""
    lines = [f"{row['verdict']:7} {name} ({row['s']} s): {row['measured']}" for name, row in found["rows"].items()]
    about = ", ".join(f"{k} {v}" for k, v in found["settings"].items())
    return "\n\n".join([f"gpu-check: {about}", "\n".join(lines), machine_line(found)])


def _verdict(check: Callable[[Bench], str], bench: Bench) -> tuple[str, str]:
    try:
        with _stopped_after(CHECK_SECONDS):
            return "passed", check(bench)
    except TookTooLong:
        return "FAILED", f"not done within {CHECK_SECONDS} s"
    except Skipped as reason:
        return "skipped", str(reason)
    except Failed as failure:
        return "FAILED", str(failure)
    except Exception as error:  # whatever a GPU, a driver or a compiler raises: the other checks go on
        traceback.print_exc()
        return "FAILED", f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    finally:
        if bench.gpu:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _stopped_after(seconds: int) -> Iterator[None]:
    """Raises TookTooLong in the block when its time is over, where an alarm can (the main thread of a Unix process).

    A kernel that hangs is not stopped: an alarm is heard between two calls.
    """

    def over(*_: object) -> None:
        raise TookTooLong

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _versions() -> dict[str, Any]:
    found = {"torch": torch.__version__, "CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found |= {"GPU": about.name, "memory": f"{about.total_memory / 2**30:.0f} GiB"}
    return found


def _at_most(value: float, bound: float, what: str) -> str:
    if not value <= bound:
        raise Failed(f"{what} {value:.3g}, bound {bound:g}")
    return f"{what} {value:.2g} (at most {bound:g})"


def _at_least(value: float, bound: float, what: str) -> str:
    if not value >= bound:
        raise Failed(f"{what} {value:.6g}, bound {bound:g}")
    return f"{what} {value:.6f} (at least {bound:g})"


def _batch(seed: int, size: int = 4, side: int = SIDE) -> Batch:
    """Crops with seen and latent regions in stripes, other ones for each seed, on the CPU."""
    random = np.random.default_rng([29, seed])
    ids = [sorted(random.choice(SEEN + 3, 1 + int(random.integers(5)), replace=False).tolist()) for _ in range(size)]
    stripes = [np.array(own, np.uint8)[np.arange(side) * len(own) // side] for own in ids]

    def noise(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    masks = torch.from_numpy(np.stack([np.broadcast_to(stripe, (side, side)) for stripe in stripes]).copy())
    regions = Regions.of(ids)
    images = torch.from_numpy(random.integers(0, 256, (size, side, side, 3), np.uint8)).permute(0, 3, 1, 2)
    distortion = torch.from_numpy(np.stack([draw_distortion(100 * seed + i) for i in range(size)]))
    return Batch(images, distortion, masks, noise(size, DIM), noise(len(regions), DIM), regions)


def _learner(
    net: StudentConfig,
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    generator: GeneratorConfig = GeneratorConfig(),  # noqa: B008
) -> Learner:
    torch.manual_seed(3)
    text = functional.normalize(torch.randn(SEEN, DIM), dim=1)
    return Learner(build_student(net, DIM), text, distill, generator, PixelLossConfig())


def _trainer(learner: Learner, device: torch.device, *, compiled: bool = False, **settings: Any) -> Trainer:
    cfg = TrainConfig(iterations=100, warmup=2, batch=4, lr=1e-4, **settings)
    learner = learner.to(device)
    return Trainer(cfg, learner, make_optimiser(learner, cfg), device, compiled=compiled)


@contextmanager
def _no_waits(bench: Bench) -> Iterator[None]:
    """Raises where the host would wait for the GPU."""
    if not bench.gpu:
        raise Skipped("needs a GPU")
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _found(learner: Learner, batch: Batch, device: torch.device, precision: str) -> tuple[dict[str, float], Tensor]:
    """Loss terms, and the gradient of all weights as one vector, without dropout; on the CPU."""
    learner = learner.to(device).eval()
    dtype = autocast_dtype(precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16, init_scale=256.0)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        terms = learner(batch.to(device))
    scaler.scale(terms["total"]).backward()
    scale = scaler.get_scale() if scaler.is_enabled() else 1.0
    parameters = [p for p in learner.parameters() if p.requires_grad]
    flat = [torch.zeros_like(p) if p.grad is None else p.grad / scale for p in parameters]
    return {k: v.item() for k, v in terms.items()}, torch.cat([g.flatten() for g in flat]).double().cpu()


def losses(bench: Bench) -> str:
    """Every loss term and the gradient of all weights, in each precision, against float32 on the CPU."""
    worst: dict[str, tuple[float, float]] = dict.fromkeys(TERMS, (0.0, 1.0))
    for net in FAMILIES.values():
        learner, batch = _learner(net), _batch(0)
        wanted, exact = _found(copy.deepcopy(learner), batch, CPU, "fp32")
        for precision in TERMS:
            if not bench.gpu and precision == "fp16":
                continue
            terms, gradient = _found(copy.deepcopy(learner), batch, bench.device, precision)
            off = max(abs(terms[k] - v) / max(abs(v), 0.05) for k, v in wanted.items())
            cosine = float(functional.cosine_similarity(gradient, exact, dim=0))
            worst[precision] = (max(worst[precision][0], off), min(worst[precision][1], cosine))
    parts = [f"{p}: terms {off:.2g}, gradient's cosine {cosine:.5f}" for p, (off, cosine) in worst.items()]
    if any(off > TERMS[p] or cosine < GRADIENTS[p] for p, (off, cosine) in worst.items()):
        raise Failed(f"{'; '.join(parts)}; bounds {TERMS}, {GRADIENTS}")
    return "; ".join(parts)


def student_waits(bench: Bench, family: str) -> str:
    """Steps of a family under set_sync_debug_mode("error"), the batch's way to the device included."""
    if not bench.gpu:
        raise Skipped("needs a GPU")
    took = []
    for precision in ("bf16", "fp32"):
        start = time.perf_counter()
        trainer = _trainer(_learner(FAMILIES[family]), bench.device, precision=precision, max_grad_norm=1.0)
        built = time.perf_counter()
        for step in range(2):
            trainer.step(step, _batch(step).to(bench.device))
        pinned = [_batch(seed).pin_memory() for seed in (2, 3)]
        with _no_waits(bench):
            for step, batch in enumerate(pinned):
                try:
                    trainer.step(2 + step, batch.to(bench.device))
                except RuntimeError as error:
                    raise Failed(f"{precision}: {str(error).splitlines()[0]}") from error
        took.append(f"{precision}: built in {built - start:.1f} s, 4 steps in {time.perf_counter() - built:.1f} s")
    return f"no wait; {', '.join(took)}"


class _Net(nn.Module):
    """A student as small as it gets, of stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, DIM, 1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(images).relu())
        return out


LOSSES: dict[str, DistillConfig] = {
    **{n: DistillConfig.model_validate({"negatives": n}) for n in ("image", "batch")},
    **{loss: DistillConfig.model_validate({"loss": loss}) for loss in ("cosine", "l2", "froster", "none")},
}
GENERATORS = [
    *({"memory": memory} for memory in ("both", "local", "global")),
    *({"inputs": i, "calibrator": c} for i in ("prototypes", "cls") for c in ("none", "mlp")),
    {"enabled": False},
]


def settings_wait(bench: Bench) -> str:
    """Steps of every loss x negatives x calibrator under set_sync_debug_mode("error")."""
    counted, batch = 0, _batch(0).to(bench.device)
    text = functional.normalize(torch.randn(SEEN, DIM), dim=1)
    for name, distill in LOSSES.items():
        for settings in GENERATORS:
            net: Any = _Net()
            generator = GeneratorConfig.model_validate(settings)
            trainer = _trainer(Learner(net, text, distill, generator, PixelLossConfig()), bench.device)
            trainer.step(0, batch)
            with _no_waits(bench):
                try:
                    trainer.step(1, batch)
                except RuntimeError as error:
                    raise Failed(f"{name}, {settings}: {str(error).splitlines()[0]}") from error
            counted += 1
    return f"{counted} steps without a wait"


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
    parts = [_at_most(off, 1e-4, f"{'compiled' if fused else 'eager'}: off by") for fused, off in worst.items()]
    return ", ".join(parts)


def resumed(bench: Bench) -> str:
    """Six steps in one go, and three, a checkpoint, and three more in another trainer: the weights."""
    net = FAMILIES["segformer"]

    def weights(stop: int) -> Tensor:
        trainer = _trainer(_learner(net), bench.device)
        for step in range(6):
            if step == stop:
                packed = pack_state({"learner": trainer.learner}, trainer.optimiser, {"iteration": step})
                trainer = _trainer(_learner(net), bench.device)
                unpack_state(packed, {"learner": trainer.learner}, trainer.optimiser, "state")
            trainer.step(step, _batch(step).to(bench.device))
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
        learner = _learner(FAMILIES["segformer"]).to(device)
        optimiser = make_optimiser(learner, TrainConfig(lr=1e-3))
        if not all(group["fused"] for group in optimiser.param_groups):
            raise Failed("the optimiser isn't fused")
        random = torch.Generator().manual_seed(4)
        for _ in range(3):
            for p in learner.parameters():
                p.grad = torch.randn(p.shape, generator=random).to(device)
            optimiser.step()
        made.append(torch.cat([p.detach().flatten().cpu() for p in learner.parameters()]))
    return _at_most(float((made[0] - made[1]).abs().max()), 1e-5, "largest difference of a weight")


def channels_last(bench: Bench) -> str:
    """Kernels and features lie as the images do, and the features are those of the other layout."""
    trainer = _trainer(_learner(FAMILIES["unet"]), bench.device)
    images = _batch(0).to(bench.device).student_input()
    student = trainer.learner.student.eval()
    wide = [m for m in student.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1 < m.weight.shape[2]]
    if not all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in wide):
        raise Failed("a kernel isn't channels-last")
    with torch.no_grad():
        found = student(images)
        if not found.is_contiguous(memory_format=torch.channels_last):
            raise Failed("features aren't channels-last")
        plain = copy.deepcopy(student).to(memory_format=torch.contiguous_format)(images.contiguous())
    return _at_most(float((found - plain).norm() / plain.norm()), 5e-3, "relative difference")


def compiled(bench: Bench) -> str:
    """A compiled student's losses against the eager one's, and no compiling again for other regions."""
    eager, batch = _learner(FAMILIES["segformer"]), _batch(0)
    wanted, exact = _found(copy.deepcopy(eager), batch, bench.device, "fp32")
    start = time.perf_counter()
    trainer = _trainer(eager, bench.device, compiled=True)
    terms, gradient = _found(trainer.learner, batch, bench.device, "fp32")
    off = max(abs(terms[k] - v) / max(abs(v), 0.05) for k, v in wanted.items())
    cosine = float(functional.cosine_similarity(gradient, exact, dim=0))
    trainer.optimiser.zero_grad()
    trainer.step(0, batch.to(bench.device))
    trainer.step(1, _batch(1).to(bench.device))
    taken = time.perf_counter() - start
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for step in (2, 3):
            trainer.step(step, _batch(step).to(bench.device))
    finally:
        torch.compiler.set_stance("default")
    parts = [_at_most(off, TERMS["fp32"], "terms"), _at_least(cosine, GRADIENTS["fp32"], "gradient's cosine")]
    if bench.gpu:
        with _no_waits(bench):
            trainer.step(4, _batch(4).pin_memory().to(bench.device))
        parts.append("no wait")
    return f"{', '.join(parts)}; {taken:.0f} s to compile"


def one_process_group(bench: Bench) -> str:
    """DistributedDataParallel and every collective in a group of one process: nccl, and gloo for the host's words."""
    learner, batch = _learner(FAMILIES["segformer"], DistillConfig(negatives="batch")), _batch(0)
    wanted, exact = _found(copy.deepcopy(learner), batch, bench.device, "fp32")
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
            pinned = _batch(1).pin_memory()
            with _no_waits(bench):
                shared(pinned.to(bench.device))["total"].backward()
    finally:
        dist.destroy_process_group()
    off = max(abs(terms[k].item() - v) / max(abs(v), 0.05) for k, v in wanted.items())
    cosine = float(functional.cosine_similarity(found, exact, dim=0)) if len(found) == len(exact) else 0.0
    return f"{_at_most(off, 1e-3, 'terms')}, {_at_least(cosine, 0.999, 'gradient')}"


def teacher(bench: Bench) -> str:
    """Tokens of the demo's teacher in float32 against the CPU's; encoding waits for nothing before its results."""
    world, cfg = bench.world, bench.world.plan.config
    made = []
    for device in (CPU, bench.device):
        one = world.teacher(device)
        source = TeacherViews(world.data, cfg.views, one.input_size, one.crop_size)
        batch = collate_views([source[row] for row in range(8)])
        if device.type == "cuda":
            pinned = batch.pin_memory()
            encode(one, pinned, cfg.extract).arrays()
            with _no_waits(bench):
                pending = encode(one, pinned, cfg.extract)
            made.append(pending.arrays())
        else:
            made.append(encode(one, batch, cfg.extract).arrays())
    flat = [[torch.from_numpy(a[k].astype(np.float32).reshape(-1, one.dim)) for k in sorted(a)] for a in made]
    least = min(float(functional.cosine_similarity(a, b, dim=1).min()) for a, b in zip(*flat, strict=True))
    return _at_least(least, 0.999, "least cosine of a token")


def mining(bench: Bench) -> str:
    """Latent cells from the device's dense tokens against those from the CPU's."""
    world, cfg = bench.world, bench.world.plan.config
    cells = []
    for device in (CPU, bench.device):
        one = world.teacher(device)
        source = TeacherViews(world.data, cfg.views, one.input_size, one.crop_size)
        batch = collate_views([source[row] for row in range(8)])
        dense = encode(one, batch, cfg.extract).arrays()["dense"].astype(np.float32)
        miner = Miner(cfg.mine_latent, world.data, cfg.views, one.crop_size, gpu=False)
        cells.append(np.stack([miner.mine(row, dense[row]).cells for row in range(8)]))
    return _at_least(float((cells[0] == cells[1]).mean()), 0.98, "share of equal cells")


def faiss_gpu(bench: Bench) -> str:
    """k-means of faiss on the GPU against its CPU form: the same clusters."""
    if not bench.gpu or not gpus():
        raise Skipped("faiss sees no GPU here (faiss-cpu, or CUDA libraries that its wheel needs are missing)")
    random = np.random.default_rng(31)
    points = functional.normalize(torch.from_numpy(random.standard_normal((900, 512)).astype(np.float32)), dim=1)
    start = points[::60].numpy()
    same = [bare_kmeans(points.numpy(), start, 10, on)[1].ravel() for on in (False, True)]
    return _at_least(float((same[0] == same[1]).mean()), 0.99, "share of equal assignments")


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
        same = _at_least(float(np.mean(equal)), 0.97, "share of equal labels")
        parts.append(f"{mode}: {_at_most(off, 0.05, 'scores, in deviations,')}, {same}")
    return "; ".join(parts)


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


CHECKS: dict[str, Callable[[Bench], str]] = {
    "losses and gradients as on the CPU": losses,
    "pixel loss as in float64": pixel_loss,
    **{f"no wait: student {family}": partial(student_waits, family=family) for family in FAMILIES},
    "no wait: losses, negatives, calibrators": settings_wait,
    "resumed equals unbroken": resumed,
    "AdamW, fused": adamw,
    "channels-last": channels_last,
    "teacher's tokens as on the CPU": teacher,
    "latent cells as on the CPU": mining,
    "faiss on the GPU": faiss_gpu,
    "evaluation as on the CPU": evaluation,
    "one process on nccl": one_process_group,
    "the stages, as a user runs them": stages,
    "compiled student": compiled,
}
"""Name -> check, the quick ones first."""
