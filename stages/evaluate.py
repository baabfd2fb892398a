"""eval: the student alone on the evaluation images -> sIoU, uIoU, hIoU, per-class table, picture grid.

method.md section 7. The teacher's training-free row goes through the same code with another scorer; that one
alone loads CLIP. Several processes (torchrun) divide the images; rank 0 alone writes (docs/distributed.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from stages.parts.data.datasets import BadSample, Dataset, Quarantine
from stages.parts.data.views import Array
from stages.parts.eval_report import EvalReport
from stages.parts.learning.distributed import all_gather_list, all_reduce_sum, process_group
from stages.parts.processes import rank_and_world
from stages.parts.scoring.background import BackgroundCurve
from stages.parts.scoring.bias_curve import BiasCurve, biases_of
from stages.parts.scoring.gallery import ImageScore, extremes, mixed, score_image
from stages.parts.scoring.inference import TOGETHER, Scorer, best_of, class_scores, predicted, student_scorer
from stages.parts.scoring.metrics import scores
from stages.parts.scoring.report import class_rows, means, supported_means
from stages.parts.scoring.risk import RiskCurve
from stages.parts.scoring.tally import Tally
from stages.parts.settings import EvaluateConfig
from stages.running.compute import Compute, memory_explained
from stages.running.loading import loaded, losses_explained
from stages.running.progress import Bar
from stages.running.recipes import CacheRecipe
from stages.running.scoring.pairs import Pairs
from stages.running.scoring.student import class_scorer, load_student
from stages.running.scoring.texts import scored_texts
from stages.running.scoring.threshold import alpha_of, background_threshold
from stages.running.scoring.written import write

_SMALLER = "lower eval.short_side, or set eval.mode=slide with a smaller eval.crop and eval.stride"
EXTREMES = 4
"""Best and worst pictures kept for the run's report."""


def run(
    cfg: EvaluateConfig,
    data: Dataset,
    text: Artifact,
    run_at: Location,
    out: Location,
    *,
    train: Dataset | None = None,
    compute: Compute,
) -> EvalReport:
    """Scores the student of `run_at`; writes report.json and grid.png; returns the report.

    `train`: the training photos, whose seen labels the threshold of `eval.background` is fitted on where none is set.
    """
    checkpoint = load_student(run_at)
    scorer = class_scorer(checkpoint, text, data.vocabulary, cfg, str(run_at), compute.device)
    about = {"scored": "student", "run": str(run_at), "about": checkpoint.about}
    with process_group(str(out), compute.device), memory_explained(_SMALLER):
        return _score(cfg, data, scorer, out, compute, about, train)


def run_transfer(
    cfg: EvaluateConfig,
    data: Dataset,
    text: tuple[Artifact, Sequence[str]],
    run_at: Location,
    out: Location,
    on: str,
    *,
    compute: Compute,
) -> EvalReport:
    """Scores the student of `run_at` on another data set, called `on`; writes and returns the report as `run` does.

    `text`: embeddings of the other vocabulary and the names of its rows. Which classes are seen, `data` says.
    """
    checkpoint, (artifact, names) = load_student(run_at), text
    arrays = artifact.read(0)
    every = dict(zip(names, np.concatenate([arrays["seen"], arrays["unseen"]]), strict=True))
    trained = dict(zip(checkpoint.seen, checkpoint.text.numpy(), strict=True))
    if odd := [n for n in every.keys() & trained.keys() if not np.allclose(every[n], trained[n], atol=1e-4)]:
        raise InputError(
            f"{run_at}: trained with another text embedding of {odd[0]!r} than {artifact} holds; use its own teacher "
            "and prompts"
        )
    means = torch.from_numpy(np.stack([every[n] for n in data.vocabulary.ordered])).to(compute.device)
    texts = scored_texts(means, artifact, data.vocabulary, cfg)
    scorer = student_scorer(checkpoint.student.to(compute.device), *texts)
    about = {"scored": "student", "run": str(run_at), "on": on, "about": checkpoint.about}
    with process_group(str(out), compute.device), memory_explained(_SMALLER):
        return _score(cfg, data, scorer, out, compute, about)


def run_teacher(
    cfg: EvaluateConfig,
    recipe: CacheRecipe,
    data: Dataset,
    text: Artifact,
    out: Location,
    *,
    train: Dataset | None = None,
    compute: Compute,
) -> EvalReport:
    """Scores the teacher training-free: its refined dense tokens against the same text embeddings, by the same code.

    `train`: as in `run`.
    """
    from stages.parts.teacher.features import load_features
    from stages.parts.teacher.refine import Refiner
    from stages.parts.teacher.teacher import load_teacher  # the one place of this stage that needs CLIP

    teacher, refiner = load_teacher(recipe.teacher, compute.device), Refiner(recipe.refine, recipe.affinity)
    arrays = text.read(0)
    means = torch.from_numpy(np.concatenate([arrays["seen"], arrays["unseen"]])).to(compute.device)
    rows, owners = scored_texts(means, text, data.vocabulary, cfg)
    side = teacher.input_size
    features = load_features(refiner.affinity, teacher) if refiner.refine.affinity == "network" else None

    def score(pixels: torch.Tensor) -> torch.Tensor:
        squashed = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
        views = squashed.round().clamp(0, 255).to(torch.uint8)
        _, dense = teacher.encode_views(views)
        dense = refiner.tokens(dense, None if features is None else features(views))
        return best_of(torch.einsum("bhwd,kd->bkhw", torch.nn.functional.normalize(dense, dim=-1), rows), owners)

    about = {"scored": "teacher, training-free", "recipe": teacher.recipe}
    with process_group(str(out), compute.device), memory_explained(_SMALLER):
        return _score(cfg.of_teacher(), data, score, out, compute, about, train)


def _score(
    cfg: EvaluateConfig,
    data: Dataset,
    scorer: Scorer,
    out: Location,
    compute: Compute,
    about: dict[str, Any],
    train: Dataset | None = None,
) -> EvalReport:
    """Scores all images and writes what is found. `about`: fields of the report that say what was scored."""
    words, alpha, device = data.vocabulary, alpha_of(about), compute.device
    seen, every = len(words.seen), len(words.ordered)
    pairs = Pairs(data, "background" if cfg.background else "all")
    background: BackgroundCurve | None = None
    threshold: tuple[float, float | None] = (0.0, None)
    if cfg.background:
        threshold = background_threshold(cfg, train, scorer, alpha, compute)
        background = BackgroundCurve(every, alpha, device)
    bias = _bias_curve(scorer, pairs, cfg, device)
    tally = Tally(cfg, seen, every, device, RiskCurve(every, alpha, device), bias, background)
    start = time.perf_counter()
    image_scores, bad = _counted(tally, scorer, pairs, compute)
    # No image is drawn twice: the sample comes from what the ends leave.
    ends = min(EXTREMES, max(0, len(image_scores) - cfg.pictures) // 2) if cfg.pictures else 0
    best, worst = extremes(image_scores, ends)
    left = [one for one in image_scores if one not in (*best, *worst)]
    found = scores(tally.confusion, seen)
    report = EvalReport(
        **about,
        **means(found),
        classes=class_rows(found, words.ordered, seen),
        supported=supported_means(scores(tally.confusion, seen, cfg.min_pixels), words.ordered, cfg.min_pixels),
        data=data.cfg.val,
        split=words.split,
        split_hash=words.split_hash,
        images=len(data) - len(bad),
        bad=tuple(bad),
        settings=cfg,
        images_per_second=round(len(data) / (time.perf_counter() - start), 2),
        pictures={
            end: tuple((data.ids[one.index], round(100 * (one.iou or 0.0), 2)) for one in shown)
            for end, shown in (("best", best), ("worst", worst))
        },
        risk=tally.risk.risk(),
        background=background and background.background(words.background_form, *threshold),
    )
    if rank_and_world()[0] == 0:
        chosen = {"grid": mixed(left, cfg.pictures, seen, every)}
        chosen |= {end: [one.index for one in shown] for end, shown in (("best", best), ("worst", worst))}
        write(
            out,
            report,
            tally,
            pairs,
            chosen,
            lambda image: predicted(class_scores(scorer, image, cfg, seen, device)),
        )
    return report


def _counted(tally: Tally, scorer: Scorer, pairs: Pairs, compute: Compute) -> tuple[list[ImageScore], list[str]]:
    """Counts this process's share of the images, then takes the sums over all processes.

    Returns the scores of every image, and what was wrong with those that were left out, both in their order. Raises
    InputError for more bad ones than data.max_bad.
    """
    data, (rank, world) = pairs.data, rank_and_world()
    quarantine = Quarantine(data.cfg.max_bad)
    image_scores: list[ImageScore] = []
    bad: list[tuple[int, str]] = []
    share = range(rank, len(data), world)
    together = TOGETHER[compute.device.type]
    batches = [[*range(k, min(k + together, len(share)))] for k in range(0, len(share), together)]
    decoded = loaded(Subset(pairs, share), batches, list, compute)
    with losses_explained(compute), Bar("eval", len(data), "images", divided=True) as bar:
        for start_at, batch in zip(range(0, len(share), together), decoded, strict=True):
            bar.advance(len(batch))
            good: list[tuple[int, Array, Array]] = []
            for i, pair in zip(share[start_at : start_at + together], batch, strict=True):
                if isinstance(pair, BadSample):
                    quarantine.add(pair)
                    bad.append((i, str(pair)))
                else:
                    good.append((i, *pair))
            own = tally.add(scorer, [(image, labels) for _, image, labels in good])
            for (i, _, labels), counts in zip(good, own, strict=True):
                image_scores.append(score_image(i, counts, labels.size, tally.num_seen))
    tally.add_up(all_reduce_sum)
    image_scores = sorted(all_gather_list(image_scores), key=lambda one: one.index)
    quarantine = Quarantine(data.cfg.max_bad)
    for _, error in sorted(all_gather_list(bad)):
        quarantine.add(BadSample(error))
    return image_scores, quarantine.bad


def _bias_curve(scorer: Scorer, pairs: Pairs, cfg: EvaluateConfig, device: torch.device) -> BiasCurve | None:
    """An empty curve around the seen bias in use, as far as the first readable image's scores reach.

    None without seen or unseen classes. Every process looks at that image, so that all have the same biases.
    """
    words = pairs.data.vocabulary
    seen, every = len(words.seen), len(words.ordered)
    if not 0 < seen < every:
        return None
    for i in range(len(pairs)):
        pair = pairs[i]
        if not isinstance(pair, BadSample):
            return BiasCurve(biases_of(class_scores(scorer, pair[0], cfg, seen, device), seen), seen, every, device)
    return None
