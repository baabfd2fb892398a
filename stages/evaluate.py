"""eval: the student alone on the evaluation images -> sIoU, uIoU, hIoU, per-class table, picture grid.

method.md section 7. The teacher's training-free row goes through the same code with another scorer; that one
alone loads CLIP. Several processes (torchrun) divide the images; rank 0 alone writes (docs/distributed.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset

from cache.errors import InputError
from cache.headers import FILE as STUDENT
from cache.headers import student_bytes
from cache.location import Location
from cache.settings import IGNORE, ignore_index
from cache.store import Artifact
from cache.summary import spread
from stages.parts.data.datasets import BadSample, Dataset, Quarantine, Which
from stages.parts.data.views import Array
from stages.parts.drawing.figures import confusion_heat
from stages.parts.drawing.overlays import grid, overlay, where_scored
from stages.parts.drawing.palette import palette
from stages.parts.eval_report import EvalReport
from stages.parts.learning.distributed import all_gather_object, all_reduce_sum, process_group
from stages.parts.processes import rank_and_world
from stages.parts.scoring.background import BackgroundCurve
from stages.parts.scoring.bias_curve import BiasCurve, Point, percent
from stages.parts.scoring.bias_curve import grid as bias_grid
from stages.parts.scoring.gallery import ImageScore, extremes, mixed, score_image
from stages.parts.scoring.inference import (
    Scorer,
    checked,
    class_scores,
    every_scores,
    label_map,
    pixel_counts,
    predicted,
    student_scorer,
)
from stages.parts.scoring.metrics import scores
from stages.parts.scoring.report import class_rows, means, supported_means
from stages.parts.scoring.risk import RiskCurve
from stages.parts.settings import EvaluateConfig
from stages.parts.students.checkpoint import Checkpoint, unpack
from stages.running.compute import Compute, memory_explained
from stages.running.loading import loaded, losses_explained
from stages.running.progress import Bar
from stages.running.recipes import CacheRecipe
from stages.running.reports import BIASES, REPORT


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
    embeddings = all_text(text, data, checkpoint, str(run_at))
    scorer = student_scorer(checkpoint.student.to(compute.device), embeddings.to(compute.device))
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
    embeddings = torch.from_numpy(np.stack([every[n] for n in data.vocabulary.ordered]))
    scorer = student_scorer(checkpoint.student.to(compute.device), embeddings.to(compute.device))
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

    `train`: as in `run`; a threshold that is set is the student's, whose scores are other ones.
    """
    from stages.parts.teacher.features import load_features
    from stages.parts.teacher.refine import Refiner
    from stages.parts.teacher.teacher import load_teacher  # the one place of this stage that needs CLIP

    teacher, refiner = load_teacher(recipe.teacher, compute.device), Refiner(recipe.refine, recipe.affinity)
    arrays = text.read(0)
    embeddings = torch.from_numpy(np.concatenate([arrays["seen"], arrays["unseen"]])).to(compute.device)
    side = teacher.input_size
    features = load_features(refiner.affinity, teacher) if refiner.refine.affinity == "network" else None

    def score(pixels: torch.Tensor) -> torch.Tensor:
        squashed = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
        views = squashed.round().clamp(0, 255).to(torch.uint8)
        _, dense = teacher.encode_views(views)
        dense = refiner.tokens(dense, None if features is None else features(views))
        return torch.einsum("bhwd,kd->bkhw", torch.nn.functional.normalize(dense, dim=-1), embeddings)

    about = {"scored": "teacher, training-free", "recipe": teacher.recipe}
    fitted = cfg.model_copy(update={"background_threshold": 0.0})
    with process_group(str(out), compute.device), memory_explained(_SMALLER):
        return _score(fitted, data, score, out, compute, about, train)


def run_curve(
    cfg: EvaluateConfig,
    data: Dataset,
    text: Artifact,
    run_at: Location,
    also: Sequence[float] = (),
    *,
    compute: Compute,
) -> list[Point]:
    """The student's scores over the seen bias, from one pass; writes nothing. `cfg.seen_bias` is left out of it.

    The biases are evenly spaced, 0 in the middle, as far as the scores reach, and those of `also`.

    Raises InputError for a bad sample: a curve of some of the images would be compared with scores of all.
    """
    checkpoint = load_student(run_at)
    embeddings = all_text(text, data, checkpoint, str(run_at))
    seen, every = len(data.vocabulary.seen), len(data.vocabulary.ordered)
    if seen == every:
        raise InputError(f"split {data.vocabulary.split!r} has no unseen class: there is nothing to calibrate")
    device = compute.device
    scorer = student_scorer(checkpoint.student.to(device), embeddings.to(device))
    curve: BiasCurve | None = None
    plain = cfg.model_copy(update={"seen_bias": 0.0})
    for found, labels in _scored(plain, data, "all", scorer, compute):
        if curve is None:
            curve = BiasCurve(np.union1d(_biases(found, seen), np.array(also)), seen, every, device)
        curve.add(found, torch.from_numpy(labels).to(device))
    assert curve is not None  # an empty list of images is refused where it is opened
    return curve.points()


def run_risk(
    cfg: EvaluateConfig, data: Dataset, text: Artifact, run_at: Location, which: Which, *, compute: Compute
) -> RiskCurve:
    """Risk-coverage of the student on the labels `which` of a data set, from one pass; writes nothing.

    Raises InputError for a bad sample.
    """
    checkpoint = load_student(run_at)
    embeddings = all_text(text, data, checkpoint, str(run_at))
    scorer = student_scorer(checkpoint.student.to(compute.device), embeddings.to(compute.device))
    return _risk(cfg, data, which, scorer, _alpha({"about": checkpoint.about}), compute)


FITTED_ON = 200
"""Most training photos that a threshold is fitted on."""


def fitting_photos(data: Dataset) -> Dataset:
    """The training photos that a threshold is fitted on, evenly drawn from those whose masks are read."""
    read = [record for record in data.records if record.id not in data.unlabelled]
    return replace(data, records=[read[i] for i in spread(len(read), FITTED_ON)])


def _risk(
    cfg: EvaluateConfig,
    data: Dataset,
    which: Which,
    scorer: Scorer,
    alpha: float | None,
    compute: Compute,
    quarantine: Quarantine | None = None,
) -> RiskCurve:
    every = len(data.vocabulary.ordered)
    curve = RiskCurve(every, alpha, compute.device)
    for found, labels in _scored(cfg, data, which, scorer, compute, quarantine):
        # Labels of seen classes alone have 8 bits whatever all classes need.
        known = np.where(labels == IGNORE, ignore_index(every), labels) if which == "seen" else labels
        curve.add(found, torch.from_numpy(known).to(compute.device))
    return curve


def _background_threshold(
    cfg: EvaluateConfig, train: Dataset | None, scorer: Scorer, alpha: float | None, compute: Compute
) -> tuple[float, float | None]:
    """The threshold (a sigmoid) below which a pixel is background, and the share of seen pixels [%] it was fitted to
    keep. Raises InputError where there is nothing to fit it on."""
    if cfg.background_threshold:
        return cfg.background_threshold, None
    photos = None if train is None else fitting_photos(train)
    point = None
    if photos is not None and len(photos):  # what extract and train left out, they leave out here too
        bad = Quarantine(photos.cfg.max_bad)
        point = _risk(cfg, photos, "seen", scorer, alpha, compute, bad).keeping(cfg.background_keep)
    if point is None:
        raise InputError(
            "eval.background: there is no labelled pixel of a seen class in training photos to fit the threshold on; "
            "give one, eval.background_threshold = 0.3 say"
        )
    return point.threshold, cfg.background_keep


def _scored(
    cfg: EvaluateConfig,
    data: Dataset,
    which: Which,
    scorer: Scorer,
    compute: Compute,
    quarantine: Quarantine | None = None,
) -> Iterator[tuple[torch.Tensor, Array]]:
    """Scores [K, H, W] of each image, on the device, with its labels `which`.

    Raises InputError for a bad sample, or for more of them than `quarantine` takes.
    """
    decoded = loaded(_Pairs(data, which), [[i] for i in range(len(data))], list, compute)
    with losses_explained(compute), Bar("threshold" if quarantine else "calibrate", len(data), "images") as bar:
        for (pair,) in decoded:
            bar.advance()
            if isinstance(pair, BadSample):
                if quarantine is None:
                    raise InputError(str(pair))
                quarantine.add(pair)
                continue
            yield class_scores(scorer, pair[0], cfg, len(data.vocabulary.seen), compute.device), pair[1]


def _biases(found: torch.Tensor, seen: int) -> NDArray[np.float64]:
    """The biases of a curve: how far scores [K, H, W] reach is the student's own, and a first image says it."""
    return bias_grid(found[:seen].amax(0) - found[seen:].amax(0))


def load_student(run_at: Location) -> Checkpoint:
    """The finished student of a run."""
    return unpack(student_bytes(run_at, finished=True), f"{run_at}/{STUDENT}")


def all_text(text: Artifact, data: Dataset, checkpoint: Checkpoint, where: str) -> torch.Tensor:
    """Text embeddings [K, D] of seen + unseen classes. Raises InputError where the student knows other seen ones."""
    if checkpoint.seen != data.vocabulary.seen:
        odd = sorted(set(checkpoint.seen) ^ set(data.vocabulary.seen))
        raise InputError(
            f"{where}: trained on other seen classes than split {data.vocabulary.split!r} has ({', '.join(odd[:5])})"
        )
    arrays = text.read(0)
    seen = torch.from_numpy(arrays["seen"])
    if seen.shape != checkpoint.text.shape or not torch.allclose(seen, checkpoint.text, atol=1e-4):
        raise InputError(
            f"{where}: trained with other text embeddings than {text} holds; use its own teacher and prompts"
        )
    return torch.cat([checkpoint.text, torch.from_numpy(arrays["unseen"])])


TOGETHER = {"cpu": 1, "cuda": 8}
"""Images in one pass of the network, where they are of one size. On a processor one alone: more of them are no faster
there, and may change the last bit of a score."""
_SMALLER = "lower eval.short_side, or set eval.mode=slide with a smaller eval.crop and eval.stride"
EXTREMES = 4
"""Best and worst pictures kept for the run's report."""


class _Pairs(TorchDataset["tuple[Array, Array] | BadSample"]):
    """Images with all their labels, or those of seen classes, decoded in workers."""

    def __init__(self, data: Dataset, which: Which = "all") -> None:
        self.data, self.which = data, which

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Array, Array] | BadSample:
        try:
            return self.pair(i)
        except BadSample as error:
            return error

    def pair(self, i: int) -> tuple[Array, Array]:
        """Image and labels. Raises BadSample."""
        return self.data.image(i), self.data.labels(i, self.which)


def _score(
    cfg: EvaluateConfig,
    data: Dataset,
    scorer: Scorer,
    out: Location,
    compute: Compute,
    about: dict[str, Any],
    train: Dataset | None = None,
) -> EvalReport:
    device = compute.device
    words, quarantine = data.vocabulary, Quarantine(data.cfg.max_bad)
    seen, every = len(words.seen), len(words.ordered)
    counts = np.zeros((every, every), np.int64)
    image_scores: list[ImageScore] = []
    bad: list[tuple[int, str]] = []
    rank, world = rank_and_world()
    share = range(rank, len(data), world)
    pairs = _Pairs(data, "background" if cfg.background else "all")
    background: BackgroundCurve | None = None
    threshold: tuple[float, float | None] = (0.0, None)
    if cfg.background:
        threshold = _background_threshold(cfg, train, scorer, _alpha(about), compute)
        background = BackgroundCurve(every, _alpha(about), device)
    curve = _bias_curve(scorer, pairs, cfg, seen, every, device)
    risk = RiskCurve(every, _alpha(about), device)
    together = TOGETHER[device.type]
    batches = [[*range(k, min(k + together, len(share)))] for k in range(0, len(share), together)]
    decoded = loaded(Subset(pairs, share), batches, list, compute)
    start = time.perf_counter()
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
            found = _confusions(scorer, good, cfg, seen, every, device, [risk, *([curve] if curve else [])], background)
            for (i, _, labels), own in zip(good, found, strict=True):
                counts += own
                image_scores.append(score_image(i, own, labels.size, seen))
    counts = all_reduce_sum(torch.from_numpy(counts).to(device)).cpu().numpy()
    if curve is not None:
        curve.add_up(all_reduce_sum)
    risk.add_up(all_reduce_sum)
    if background is not None:
        background.add_up(all_reduce_sum)
    image_scores = sorted((one for part in all_gather_object(image_scores) for one in part), key=lambda one: one.index)
    quarantine = Quarantine(data.cfg.max_bad)
    for _, error in sorted(one for part in all_gather_object(bad) for one in part):
        quarantine.add(BadSample(error))
    # No image is drawn twice: the sample comes from what the ends leave.
    ends = min(EXTREMES, max(0, len(image_scores) - cfg.pictures) // 2) if cfg.pictures else 0
    best, worst = extremes(image_scores, ends)
    left = [one for one in image_scores if one not in (*best, *worst)]
    found_scores = scores(counts, seen)
    report = EvalReport(
        **about,
        **means(found_scores),
        classes=class_rows(found_scores, words.ordered, seen),
        supported=supported_means(scores(counts, seen, cfg.min_pixels), words.ordered, cfg.min_pixels),
        data=data.cfg.val,
        split=words.split,
        split_hash=words.split_hash,
        images=len(data) - len(quarantine.bad),
        bad=tuple(quarantine.bad),
        settings=cfg,
        images_per_second=round(len(data) / (time.perf_counter() - start), 2),
        pictures={
            end: tuple((data.ids[one.index], round(100 * (one.iou or 0.0), 2)) for one in shown)
            for end, shown in (("best", best), ("worst", worst))
        },
        risk=risk.risk(),
        background=background and background.background(words.background_form, *threshold),
    )
    if rank > 0:
        return report
    chosen = {"grid": mixed(left, cfg.pictures, seen, every)}
    chosen |= {end: [one.index for one in shown] for end, shown in (("best", best), ("worst", worst))}
    out.put_mark("confusion.json", {"classes": list(words.ordered), "counts": counts.tolist()})
    if curve is not None:
        # The scores had the bias taken off already.
        points = [percent(replace(p, bias=p.bias + cfg.seen_bias)) for p in curve.points()]
        out.put_mark(BIASES, {"points": points})
    for name, images in chosen.items():
        if images:
            shown = [(image, _plain(labels, every)) for image, labels in map(pairs.pair, images)]
            drawn = [predicted(class_scores(scorer, image, cfg, seen, device)) for image, _ in shown]
            out.put(f"{name}.png", _pictures(shown, drawn, words.ordered, seen))
    if cfg.pictures and counts.any():
        out.put("confusion.png", confusion_heat(words.ordered, counts, seen))
    out.put_mark(REPORT, report.model_dump(mode="json"))
    out.put_mark("complete.json", {"summary": {"sIoU": report.sIoU, "uIoU": report.uIoU, "hIoU": report.hIoU}})
    return report


def _confusions(
    scorer: Scorer,
    good: list[tuple[int, Array, Array]],
    cfg: EvaluateConfig,
    seen: int,
    every: int,
    device: torch.device,
    curves: Sequence[BiasCurve | RiskCurve],
    background: BackgroundCurve | None,
) -> list[np.ndarray]:
    """The confusion matrix of each image, counted on the device; one wait for all of them. `curves` count too.

    `background` is told which pixels are it; for all else they have no label.
    """
    counts: dict[int, torch.Tensor] = {}
    plain = [labels if background is None else _plain(labels, every) for _, _, labels in good]
    for i, found in every_scores(scorer, [image for _, image, _ in good], cfg, seen, device):
        if background is not None:
            background.add(found, torch.from_numpy(good[i][2]).to(device))
        truth = torch.from_numpy(plain[i]).to(device)
        counts[i] = pixel_counts(label_map(found), truth, every)
        for curve in curves:
            curve.add(found, truth)
    if not good:
        return []
    each = torch.stack([counts[i] for i in range(len(good))])
    return [checked(own, labels, every) for own, labels in zip(each.cpu().numpy(), plain, strict=True)]


def _plain(labels: Array, every: int) -> Array:
    """Labels without the background: it is 255, as in `Dataset.labels(i, "all")`."""
    return np.where(labels == every, labels.dtype.type(ignore_index(every)), labels)


def _alpha(about: dict[str, Any]) -> float | None:
    """The factor that a student's scores were trained with; None for a teacher's."""
    if "about" not in about:
        return None
    ingredients = about["about"].get("provenance", {}).get("ingredients", {})
    return float(ingredients.get("pixel-loss", {}).get("alpha", 1.0))


def _bias_curve(
    scorer: Scorer, pairs: _Pairs, cfg: EvaluateConfig, seen: int, every: int, device: torch.device
) -> BiasCurve | None:
    """An empty curve around the seen bias in use, as far as the first readable image's scores reach.

    None without seen or unseen classes. Every process looks at that image, so that all have the same biases.
    """
    if not 0 < seen < every:
        return None
    for i in range(len(pairs)):
        pair = pairs[i]
        if not isinstance(pair, BadSample):
            found = class_scores(scorer, pair[0], cfg, seen, device)
            return BiasCurve(_biases(found, seen), seen, every, device)
    return None


def _pictures(shown: list[tuple[Array, Array]], found: list[Array], names: tuple[str, ...], num_seen: int) -> bytes:
    colours = palette(names)
    rows, maps = [], []
    for (image, labels), drawn in zip(shown, found, strict=True):
        scored = where_scored(drawn, labels, len(names))
        rows.append([image, *(overlay(image, part, colours, names=names) for part in (labels, scored))])
        maps += [labels, scored]
    note = "pale: no label in the ground truth, not scored"
    return grid(rows, ["image", "ground truth", "prediction"], maps, names, num_seen, note)
