"""train: images, seen labels and the cache -> student. CLIP is neither needed nor imported.

AdamW, warm-up and poly decay (method.md section 5) over the losses of section 4. Everything random is drawn
from (seed, iteration) or (seed, image, turn), so a resumed run takes the steps an undisturbed one would.
Several processes (torchrun) share each batch by DistributedDataParallel; rank 0 alone writes (docs/distributed.md).
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from cache.claims import SUFFIX as CLAIM
from cache.claims import give_back, ours, take
from cache.curves import NAME as CURVES
from cache.curves import curves_at, curves_bytes
from cache.errors import InputError
from cache.location import Location, StoreError
from cache.store import Artifact
from stages.parts.data.datasets import BadSample, Dataset, Quarantine
from stages.parts.data.views import ViewsConfig
from stages.parts.drawing.overlays import overlay, palette
from stages.parts.learning.batches import Batch, CachedTokens, EpochBatchSampler, TrainingSet, collate
from stages.parts.learning.distributed import all_gather_object, all_reduce_mean, broadcast_object, process_group
from stages.parts.learning.learner import Learner
from stages.parts.learning.trainer import Trainer, make_optimiser
from stages.parts.scoring.inference import predicted
from stages.parts.settings import DistillConfig, GeneratorConfig, PixelLossConfig, TrainConfig
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.checkpoint import pack, pack_state, unpack_state
from stages.running.progress import Bar, Clock, rank_and_world, say

CHECKPOINT_SECONDS = 120.0
"""How much work a stop may cost at most."""
RUN = "run.json"
"""A run's provenance, written before its first step."""
LOG_EVERY = 10
"""Iterations between two points of the loss curves."""


Source = Callable[[TrainingSet, EpochBatchSampler], Iterator[Batch]]
"""Makes the batches that `Turns` names: a data loader, or a teacher in the loop."""


@dataclass(frozen=True)
class Recipe:
    """All settings that training reads."""

    train: TrainConfig
    views: ViewsConfig
    student: StudentConfig
    distill: DistillConfig
    latent_embedding: GeneratorConfig
    pixel_loss: PixelLossConfig


def run(
    recipe: Recipe,
    data: Dataset,
    text: Artifact,
    cache: tuple[Artifact, Artifact] | None,
    out: Location,
    provenance: dict[str, Any],
    *,
    device: torch.device,
    workers: int,
    compiled: bool = False,
    online: Source | None = None,
) -> dict[str, Any]:
    """Trains the student into `out`, resuming where an earlier run stopped; returns the summary.

    `cache`: the artifacts tokens and latent; None trains on labels alone (the baseline of Table 3), or on the
    tokens that `online` makes. Reads seen labels and the text embeddings of seen classes only. Raises InputError
    where the cache is incomplete or damaged, a batch can't be divided, a loss stops being finite, another process
    is lost or nothing can be written; the last checkpoint stays.
    """
    rank, world = rank_and_world()
    check_shares(recipe.train, world)
    # A restarted job may have its rank 0 on another machine than before: such a claim is watched, not believed.
    if rank == 0 and (holder := take(out, CLAIM, watch=world > 1)) is not None:
        raise InputError(f"{out}: {holder} is training this run; wait for it, or stop it first")
    try:
        if rank == 0:
            # From the first moment it is known what this run reads, so that nobody tidies it away.
            out.put_mark(RUN, {"provenance": provenance})
        with process_group(str(out), device, rank, world):
            return _run(recipe, data, text, cache, out, provenance, device, workers, compiled, online)
    except OSError as error:  # of TensorBoard's event file; all else goes through `Location`
        raise StoreError(f"{out}: can't write ({error.strerror or error}); the last checkpoint stays") from error
    finally:
        if rank == 0:
            give_back(out, CLAIM)


def check_shares(cfg: TrainConfig, world: int) -> None:
    """Raises InputError unless every process has equally many images of each part of a batch."""
    parts = world * cfg.grad_accumulation_steps
    if cfg.batch % parts:
        raise InputError(
            f"train.batch = {cfg.batch} can't be divided among {world} processes x train.grad_accumulation_steps = "
            f"{cfg.grad_accumulation_steps}; set train.batch to a multiple of {parts}, or start other processes"
        )


def _run(
    recipe: Recipe,
    data: Dataset,
    text: Artifact,
    cache: tuple[Artifact, Artifact] | None,
    out: Location,
    provenance: dict[str, Any],
    device: torch.device,
    workers: int,
    compiled: bool,
    online: Source | None,
) -> dict[str, Any]:
    cfg, (rank, world) = recipe.train, rank_and_world()
    embeddings = torch.from_numpy(text.read(0, ["seen"])["seen"])
    rows = len(data) * recipe.views.count
    tokens = load_cache(*cache, num_seen=len(embeddings), rows=rows) if cache else None
    torch.manual_seed(cfg.seed)
    learner = Learner(
        build_student(recipe.student, embeddings.shape[1]),
        embeddings,
        recipe.distill,
        recipe.latent_embedding,
        recipe.pixel_loss,
    ).to(device)
    optimiser = make_optimiser(learner, cfg)
    trainer = Trainer(cfg, learner, optimiser, device, compiled=compiled)
    packing = (recipe.student, data.vocabulary.seen, embeddings, {"provenance": provenance})
    start, curves, seconds, student = _resumed(out, trainer)
    if tokens is None:
        data = usable(data)
    training = TrainingSet(data, recipe.views, len(embeddings), tokens, seed=cfg.seed, photometric=cfg.photometric)
    sampler = EpochBatchSampler(
        len(training),
        cfg.batch,
        start,
        cfg.iterations,
        cfg.seed,
        rank=rank,
        world=world,
        parts=cfg.grad_accumulation_steps,
    )
    batches = (online or _loader(workers, pin=device.type == "cuda"))(training, sampler)
    clock, begun, saved = Clock(), time.perf_counter(), time.perf_counter()
    with Bar("train", cfg.iterations - start, "it") as bar, _board(out, start) if rank == 0 else nullcontext() as board:
        for iteration in range(start, cfg.iterations):
            with clock("wait"):
                batch = next(batches).to(device)
            losses = trainer.step(iteration, batch)
            last = iteration + 1 == cfg.iterations
            logged = last or iteration % LOG_EVERY == 0
            # Several processes go by rank 0's clock, and ask for it only where they wait for each other anyway.
            late = time.perf_counter() - saved > CHECKPOINT_SECONDS
            due = last or (broadcast_object(late) if logged or world == 1 else False)
            if due or logged:
                # Also before each save, or NaN weights would be kept.
                values = _finite(all_reduce_mean(losses), iteration, out)
            if logged:
                curves.append({"iteration": iteration, "lr": optimiser.param_groups[0]["lr"], **values})
                bar.advance(0, f"loss {values['total']:.3f}")
            bar.advance()
            if board is None:
                continue
            if logged:
                for name, value in values.items():
                    board.add_scalar(f"loss/{name}", value, iteration)
            if due:
                _picture(board, learner, batch, iteration)
                taken = seconds + time.perf_counter() - begun
                student = _save(out, trainer, packing, curves, iteration + 1, taken)
                saved = time.perf_counter()
    taken = seconds + time.perf_counter() - begun
    summary = {
        "iterations": cfg.iterations,
        "seconds": round(taken, 1),
        "iterations_per_second": round(cfg.iterations / taken, 3),
        "waiting_share": round(clock.seconds.get("wait", 0.0) / max(time.perf_counter() - begun, 1e-9), 4),
        "losses": {k: v for k, v in (curves[-1] if curves else {}).items() if k not in ("iteration", "lr")},
        "images": len(training),
    }
    if rank == 0:
        # What this process wrote or resumed from, never what happens to lie there by now.
        check_claim(out)
        out.put_mark("complete.json", {"summary": summary, "objects": {"student.safetensors": student}})
        out.delete("state.safetensors")
    return summary


def _loader(workers: int, *, pin: bool) -> Source:
    """Batches from the cache, made by loader processes."""

    def batches(training: TrainingSet, sampler: EpochBatchSampler) -> Iterator[Batch]:
        loader = DataLoader(training, batch_sampler=sampler, num_workers=workers, collate_fn=collate, pin_memory=pin)
        try:
            yield from loader
        except InputError as error:  # torch puts a worker's whole traceback before its one line
            raise InputError(str(error).strip().splitlines()[-1].split("Error: ")[-1]) from None

    return batches


def usable(data: Dataset) -> Dataset:
    """The data set without the bad samples that `extract` would have set aside, for training that reads no tokens.

    Decodes every sample, where `data.max_bad` allows any to be bad. Raises InputError past it.
    """
    if data.cfg.max_bad == 0:
        return data  # the first bad one stops the run when it is reached
    good, quarantine = [], Quarantine(data.cfg.max_bad)
    for i, record in enumerate(data.records):
        try:
            data.image(i)
            data.labels(i, "seen")
        except BadSample as error:
            quarantine.add(error)
            say(f"train: left out: {error}")
        else:
            good.append(record)
    return replace(data, records=good)


def load_cache(tokens: Artifact, latent: Artifact, *, num_seen: int, rows: int) -> CachedTokens:
    """What training reads of two complete artifacts, made of `rows` views of the data set, bad ones included.

    Raises InputError where one is not complete, they differ, or a token is not finite.
    """
    for artifact, stage in ((tokens, "extract"), (latent, "mine-latent")):
        if artifact.summary() is None:
            raise InputError(f"{artifact}: not complete; run `clip2seg {stage}` first")
    tokens.check_rows(rows)
    ids = tokens.ids()
    if ids != latent.ids():
        raise InputError(f"{latent}: mined for other views than {tokens} holds; run `clip2seg mine-latent` again")
    seen = tokens.load(["global", "local", "local_region", "local_offsets", "labels_crc", "photo_crc"])
    mined = latent.load(["cells", "local", "local_region", "local_offsets"])
    for artifact, name, values in ((tokens, "global", seen), (tokens, "local", seen), (latent, "local", mined)):
        bad = np.flatnonzero(~np.isfinite(values[name]).all(axis=1))
        if len(bad):
            row = int(bad[0])
            view = row if name == "global" else int(np.searchsorted(values["local_offsets"], row, side="right")) - 1
            raise InputError(
                f"{artifact}: {len(bad)} {name} tokens are not finite, first of view {ids[view]}; move it away and "
                f"run `clip2seg {artifact.provenance().get('stage', 'extract')}` again"
            )
    return CachedTokens.joined(ids, seen, mined, num_seen)


def _resumed(out: Location, trainer: Trainer) -> tuple[int, list[dict[str, float]], float, str]:
    """Iteration to go on with, the curve until there, seconds spent, sha256 of the student that belongs to it."""
    packed = out.get("state.safetensors")
    digest = hashlib.sha256(packed or b"").hexdigest()
    if len(set(all_gather_object(digest))) > 1:
        raise InputError(
            f"{out}: the processes find different checkpoints there; --artifacts must be one place for all"
        )
    if packed is None:
        return 0, [], 0.0, ""
    where = f"{out}/state.safetensors"
    about = unpack_state(packed, trainer.modules(), trainer.optimiser, where)
    iteration, seconds, student = (about.get(key) for key in ("iteration", "seconds", "student"))
    counted = isinstance(iteration, int) and 0 <= iteration <= trainer.cfg.iterations
    timed = isinstance(seconds, (int, float)) and 0 <= seconds < float("inf")
    if not (counted and timed and isinstance(student, str)):
        raise InputError(
            f"{where}: says iteration {str(iteration)[:20]} of {trainer.cfg.iterations} after {str(seconds)[:20]} s; "
            "it is no state of this run; remove it to train from the start"
        )
    if about.get("scaler"):
        trainer.scaler.load_state_dict(about["scaler"])
    say(f"train: resumed at iteration {iteration}")
    start = int(iteration or 0)
    return start, [point for point in curves_at(out) if point["iteration"] < start], float(seconds or 0.0), student


def check_claim(out: Location) -> None:
    """Raises InputError where another process took this run over, or ended it, while this one was stopped."""
    if out.get("complete.json") is None and ours(out, CLAIM):
        return
    raise InputError(f"{out}: another process took this run over while this one stood still; nothing was overwritten")


def _save(
    out: Location,
    trainer: Trainer,
    packing: tuple[StudentConfig, tuple[str, ...], torch.Tensor, dict[str, Any]],
    curves: list[dict[str, float]],
    iteration: int,
    seconds: float,
) -> str:
    """Writes a checkpoint; returns the sha256 of its student."""
    student, seen, embeddings, about = packing
    packed = pack(trainer.student, student, seen, embeddings, {**about, "iteration": iteration})
    digest = hashlib.sha256(packed).hexdigest()
    state = {"iteration": iteration, "seconds": seconds, "scaler": trainer.scaler.state_dict(), "student": digest}
    packed_state = pack_state(trainer.modules(), trainer.optimiser, state)
    check_claim(out)
    out.put(CURVES, curves_bytes(curves))
    # The state goes last: it is what a resumed run believes.
    out.put("student.safetensors", packed)
    out.put("state.safetensors", packed_state)
    return digest


def _finite(losses: dict[str, torch.Tensor], iteration: int, out: Location) -> dict[str, float]:
    values = {name: float(value) for name, value in losses.items()}
    bad = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
    if bad:
        raise InputError(
            f"{out}: loss {bad[0]} is not finite at iteration {iteration}; lower train.lr, raise train.warmup or set "
            "train.precision=fp32. The last checkpoint stays"
        )
    return values


class _board:
    """TensorBoard events: beside the run, or, for an object store, in a temporary folder that is uploaded."""

    def __init__(self, out: Location, start: int) -> None:
        self.out, self.start = out, start
        self.draft: tempfile.TemporaryDirectory[str] | None = None
        if out.path:
            self.folder = out.path / "tensorboard"
        else:
            self.draft = tempfile.TemporaryDirectory(prefix="clip2seg-board-")
            self.folder = Path(self.draft.name)

    def __enter__(self) -> SummaryWriter:
        self.hook, threading.excepthook = threading.excepthook, self._died
        self.writer = SummaryWriter(str(self.folder), purge_step=self.start)
        return self.writer

    def _died(self, what: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread could not write: its next call says so, a traceback need not."""
        if not issubclass(what.exc_type, OSError):
            self.hook(what)

    def __exit__(self, *_: object) -> None:
        try:
            self.writer.close()  # waits for the thread, which may die of what is left to write
        finally:
            threading.excepthook = self.hook
        if self.draft is None:
            return
        with self.draft:
            for file in self.folder.iterdir():
                self.out.put(f"tensorboard/{file.name}", file.read_bytes())


@torch.no_grad()
def _picture(board: SummaryWriter, learner: Learner, batch: Batch, iteration: int) -> None:
    """The batch's first crop, its pseudo mask and what the student sees among the seen classes."""
    learner.eval()
    shown = batch.part(0, len(batch.images)).student_input()
    # `forward`, so that a compiled student is not compiled again for one picture.
    features = learner.student.forward(shown).float()
    scores = torch.einsum("bdhw,kd->bkhw", features, learner.text)
    size = batch.masks.shape[1:]
    found = predicted(torch.nn.functional.interpolate(scores, size, mode="bilinear")[0])
    crop = shown[0].cpu()
    crop = (crop - crop.min()) / (crop.max() - crop.min()).clamp(min=1e-6) * 255
    image = crop.byte().permute(1, 2, 0).numpy()
    colours = palette(len(learner.text) + 40)
    board.add_image("crop", image, iteration, dataformats="HWC")
    board.add_image("pseudo mask", overlay(image, batch.masks[0].cpu().numpy(), colours), iteration, dataformats="HWC")
    board.add_image("prediction", overlay(image, found, colours), iteration, dataformats="HWC")
