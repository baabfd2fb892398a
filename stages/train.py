"""train: images, seen labels and the cache -> student. CLIP is neither needed nor imported.

AdamW, warm-up and poly decay (method.md section 5) over the losses of section 4. Everything random is drawn
from (seed, iteration) or (seed, image, epoch), so a resumed run takes the steps an undisturbed one would.
Several processes (torchrun) share each batch by DistributedDataParallel; rank 0 alone writes (docs/distributed.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from cache.claims import SUFFIX as CLAIM
from cache.claims import give_back, take
from cache.errors import InputError
from cache.headers import FILE as STUDENT
from cache.headers import RUN, student_bytes
from cache.location import Location, StoreError
from cache.tiers import CacheTiers
from stages.parts.data.datasets import BadSample, Dataset, Quarantine
from stages.parts.drawing.overlays import overlay
from stages.parts.drawing.palette import mask_colours
from stages.parts.learning.batches import Batch, EpochBatchSampler, TrainingSet
from stages.parts.learning.compiling import compiler_explained, compiler_problem, pays
from stages.parts.learning.distributed import all_reduce_mean, broadcast_object, process_group
from stages.parts.learning.learner import Learner
from stages.parts.learning.source import TokenSource
from stages.parts.learning.trainer import Trainer, make_optimiser
from stages.parts.processes import rank_and_world
from stages.parts.scoring.inference import predicted
from stages.parts.settings import TrainConfig
from stages.parts.students import Student, StudentConfig, build_student
from stages.parts.students.checkpoint import pack, unpack
from stages.parts.students.probing import check_pass, check_sizes
from stages.running.board import Board, Showing
from stages.running.cached_teacher import CachedTeacher, load_prototypes
from stages.running.checkpoints import check_claim, resumed, save
from stages.running.compute import Compute, memory_explained
from stages.running.interrupts import AGAIN, Stopped, deferred
from stages.running.loading import losses_explained
from stages.running.progress import Bar, Clock, say
from stages.running.recipes import TrainRecipe

CHECKPOINT_SECONDS = 120.0
"""How much work a stop may cost at most."""
LOG_EVERY = 10
"""Iterations between two points of the loss curves."""
_CALMER = "lower train.lr, raise train.warmup or set train.precision=fp32. The last checkpoint stays"
_SMALLER = "raise train.grad_accumulation_steps, or lower train.batch or views.size; the last checkpoint stays"


@dataclass(frozen=True)
class RunFolder:
    """Where a run is written, and what its files say of where it comes from (`provenance`, JSON).

    `showing`: how TensorBoard and trackers show it.
    """

    at: Location
    provenance: dict[str, Any]
    showing: Showing | None = None
    parent: Location | None = None
    """The finished run that the student starts from; None: it starts as its settings say."""
    preset: str = ""
    """The settings as a preset's TOML, which is kept beside the student; "": they are not."""


def run(
    recipe: TrainRecipe,
    data: Dataset,
    tiers: CacheTiers,
    out: RunFolder,
    *,
    compute: Compute,
    teacher: TokenSource | None = None,
) -> dict[str, Any]:
    """Trains the student into `out`, resuming where an earlier run stopped; returns the summary.

    `teacher`: where tokens come from, by default the cache. Where `out` names a parent, the student starts as that
    run's. Reads seen labels and the text embeddings of seen
    classes only. Raises InputError where the cache is incomplete or damaged, a sample can't be used, a batch can't be
    divided, the student refuses the crops, a loss stops being finite, the GPU's memory is full, a process is lost or
    nothing can be written; the last checkpoint stays. Ctrl-C and SIGTERM leave a checkpoint and raise `Stopped`.
    """
    at = out.at
    rank, world = rank_and_world()
    check_shares(recipe.train, world)
    # A restarted job may have its rank 0 on another machine than before: such a claim is watched, not believed.
    if rank == 0 and (holder := take(at, CLAIM, watch=world > 1)) is not None:
        raise InputError(f"{at}: {holder} is training this run; wait for it, or stop it first")
    try:
        if rank == 0:
            # From the first moment it is known what this run reads, so that nobody tidies it away.
            at.put_mark(RUN, {"provenance": out.provenance})
            if out.preset:  # by the preset's own name, which decides where its artifacts are looked for
                at.put(f"{at.parent.name}.toml", out.preset.encode())
        with (
            process_group(str(at), compute.device),
            memory_explained(_SMALLER),
            losses_explained(compute),
            compiler_explained(),
        ):
            return _run(recipe, data, tiers, out, compute, teacher)
    except OSError as error:  # of TensorBoard's event file; all else goes through `Location`
        raise StoreError(f"{at}: can't write ({error.strerror or error}); the last checkpoint stays") from error
    finally:
        if rank == 0:
            give_back(at, CLAIM)


def check_shares(cfg: TrainConfig, world: int) -> None:
    """Raises InputError unless every process has equally many images of each part of a batch."""
    parts = world * cfg.grad_accumulation_steps
    if cfg.batch % parts:
        raise InputError(
            f"train.batch = {cfg.batch} can't be divided among {world} processes x train.grad_accumulation_steps = "
            f"{cfg.grad_accumulation_steps}; set train.batch to a multiple of {parts}, or start other processes"
        )


def _run(
    recipe: TrainRecipe,
    data: Dataset,
    tiers: CacheTiers,
    folder: RunFolder,
    compute: Compute,
    teacher: TokenSource | None,
) -> dict[str, Any]:
    cfg, (rank, world), out, device = recipe.train, rank_and_world(), folder.at, compute.device
    embeddings = torch.from_numpy(tiers.text.read(0, ["seen"])["seen"])
    pseudo = recipe.reads_pseudo_labels(data)
    cached = tiers if recipe.distilled or pseudo else None
    teacher = teacher or CachedTeacher(
        cached,
        compute,
        concepts=recipe.reads_concepts,
        min_confidence=recipe.min_confidence,
        pseudo_labels=pseudo,
        latent=recipe.distilled,
    )
    tokens = teacher.tokens(len(embeddings), len(data) * recipe.views.count)
    torch.manual_seed(cfg.seed)
    built = initial_student(recipe.student, embeddings.shape[1], folder.parent).to(device)
    check_sizes(built, recipe.student, recipe.views.size)
    check_pass(built, recipe.student, recipe.views.size, cfg.batch, cfg.grad_accumulation_steps)
    learner = Learner(
        built,
        embeddings,
        recipe.distill,
        recipe.latent_embedding,
        recipe.pixel_loss,
        load_prototypes(tiers.concepts) if recipe.concept_classes else None,
    ).to(device)
    optimiser = make_optimiser(learner, cfg)
    if compute.compiled is None and _compiles(recipe, data, device):
        learner.compile_parts(student=False)
    trainer = Trainer(cfg, learner, optimiser, device, compiled=bool(compute.compiled))

    def packed(iteration: int) -> bytes:
        """The student's file after so many iterations."""
        about = {"provenance": folder.provenance, "iteration": iteration}
        return pack(trainer.student, recipe.student, data.vocabulary.seen, embeddings, about)

    start, curves, seconds, student = resumed(out, trainer)
    if tokens is None:
        data = usable(data)
    training = TrainingSet(data, recipe.views, len(embeddings), tokens, seed=cfg.seed, photometric=cfg.photometric)
    labelled = training.labelled()
    if (
        not labelled.all() and cfg.labelled_per_batch > labelled.sum()
    ):  # a photo that comes twice would be its own negative
        raise InputError(
            f"train.labelled_per_batch = {cfg.labelled_per_batch}: the masks of {labelled.sum()} training photos are "
            "read; set it to no more than that, or data.label_share higher"
        )
    sampler = EpochBatchSampler(
        len(training),
        cfg.batch,
        start,
        cfg.iterations,
        cfg.seed,
        rank=rank,
        world=world,
        parts=cfg.grad_accumulation_steps,
        labelled=labelled,
        per_batch=0 if labelled.all() else cfg.labelled_per_batch,
    )
    batches = teacher.batches(training, sampler)
    clock, begun, saved = Clock(), time.perf_counter(), time.perf_counter()
    written = Board(out, start, folder.showing) if rank == 0 else nullcontext()
    with Bar("train", cfg.iterations, "it", done=start) as bar, written as board, deferred() as stop:
        for iteration in range(start, cfg.iterations):
            with clock("wait"):
                batch = next(batches).to(device)
            losses = trainer.step(iteration, batch)
            last = iteration + 1 == cfg.iterations
            logged = last or iteration % LOG_EVERY == 0
            # Several processes go by rank 0's clock, and ask for it only where they wait for each other anyway.
            late = stop.number is not None or time.perf_counter() - saved > CHECKPOINT_SECONDS
            late, number = broadcast_object((late, stop.number)) if logged or world == 1 else (False, None)
            due = last or late
            if due or logged:
                # Also before each save, or NaN weights would be kept.
                values = _finite(all_reduce_mean(losses), iteration, out)
            if due:
                _check_weights(trainer.student, iteration, out)
            if last and not trainer.steps_taken():
                raise InputError(f"{out}: the gradients of all {cfg.iterations} steps overflowed; {_CALMER}")
            if logged:
                curves.append({"iteration": iteration, "lr": optimiser.param_groups[0]["lr"], **values})
                bar.advance(0, f"loss {values['total']:.3f}")
            bar.advance()
            if logged and board is not None:
                for name, value in values.items():
                    board.scalar(f"loss/{name}", value, iteration)
                board.scalar("lr", optimiser.param_groups[0]["lr"], iteration)
            if due and board is not None:
                _pictures(board, trainer, data.vocabulary.seen, batch, iteration)
                taken = seconds + time.perf_counter() - begun
                student = save(out, trainer, packed(iteration + 1), curves, iteration + 1, taken)
                saved = time.perf_counter()
            if number is not None and not last:
                done = f"train: stopped after {iteration + 1} of {cfg.iterations} iterations, which are kept"
                raise Stopped(number, f"{done}; {AGAIN}")
    taken = seconds + time.perf_counter() - begun
    summary = {
        "iterations": cfg.iterations,
        "seconds": round(taken, 1),
        "iterations_per_second": round(cfg.iterations / taken, 3),
        "waiting_share": round(clock.seconds.get("wait", 0.0) / max(time.perf_counter() - begun, 1e-9), 4),
        "steps_left_out": cfg.iterations - trainer.steps_taken(),
        "losses": {k: v for k, v in (curves[-1] if curves else {}).items() if k not in ("iteration", "lr")},
        "images": len(training),
    }
    if rank == 0:
        # What this process wrote or resumed from, never what happens to lie there by now.
        check_claim(out)
        out.put_mark("complete.json", {"summary": summary, "objects": {STUDENT: student}})
        out.delete("state.safetensors")
    return summary


def _compiles(recipe: TrainRecipe, data: Dataset, device: torch.device) -> bool:
    """Compiles the pixel loss unasked where that pays; says so, or why it can't be. Whether it is compiled."""
    cfg, side, seen = recipe.train, recipe.views.size, len(data.vocabulary.seen)
    share = cfg.batch // rank_and_world()[1]
    if not pays(device, share * seen * side**2, cfg.iterations):
        return False
    say("train: the pixel loss is compiled, which takes half a minute (--no-compile: not)")
    size = share // cfg.grad_accumulation_steps, seen, side
    problem = compiler_problem(device, size, recipe.pixel_loss.ignored_are_negatives, bool(data.withheld))
    if problem:
        say(f"train: the pixel loss is not compiled, and slower: {problem}")
    return not problem


def initial_student(cfg: StudentConfig, dim: int, parent: Location | None) -> Student:
    """The student before its first step: that of the run `parent`, or a new one. Raises InputError where none fits."""
    if parent is None:
        return build_student(cfg, dim)
    kept = unpack(student_bytes(parent, finished=True), f"{parent}/{STUDENT}")
    if kept.text.shape[1] != dim:
        raise InputError(f"{parent}: has features of {kept.text.shape[1]} channels, this teacher {dim}; use its own")
    assert isinstance(kept.student, Student)
    say(f"train: starts from {parent}")
    return kept.student


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


def _finite(losses: dict[str, torch.Tensor], iteration: int, out: Location) -> dict[str, float]:
    values = {name: float(value) for name, value in losses.items()}
    bad = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
    if bad:
        raise InputError(f"{out}: loss {bad[0]} is not finite at iteration {iteration}; {_CALMER}")
    return values


def _check_weights(student: Student, iteration: int, out: Location) -> None:
    """Raises InputError for weights that this iteration's own step made NaN or infinite: its losses don't show it."""
    if not torch.stack([weight.isfinite().all() for weight in student.parameters()]).all():
        raise InputError(f"{out}: weights are not finite after iteration {iteration}; {_CALMER}")


@torch.no_grad()
def _pictures(board: Board, trainer: Trainer, seen: Sequence[str], batch: Batch, iteration: int) -> None:
    """The batch's first crop, its pseudo mask, what the student sees among the seen classes; `Showing`'s photos."""
    learner = trainer.learner
    learner.eval()
    shown = batch.part(0, len(batch.images)).student_input(learner.layout)
    # `forward`, so that a compiled student is not compiled again for one picture.
    features = learner.student.forward(shown).float()
    scores = torch.einsum("bdhw,kd->bkhw", features, learner.text)
    size = batch.masks.shape[1:]
    found = predicted(torch.nn.functional.interpolate(scores, size, mode="bilinear")[0])
    crop = shown[0].cpu()
    crop = (crop - crop.min()) / (crop.max() - crop.min()).clamp(min=1e-6) * 255
    image = crop.byte().permute(1, 2, 0).numpy()
    colours = mask_colours(seen)
    board.image("crop", image, iteration)
    board.image("pseudo mask", overlay(image, batch.masks[0].cpu().numpy(), colours, names=seen), iteration)
    board.image("prediction", overlay(image, found, colours, names=seen), iteration)
    board.photos(trainer.student, iteration)
