"""The trained student of a run: with the text embeddings of all classes it is scored, and shown."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from cache.errors import InputError
from cache.headers import FILE as STUDENT
from cache.headers import student_bytes
from cache.location import Location
from cache.store import Artifact
from stages.parts.data.views import Array
from stages.parts.data.vocabulary import Vocabulary
from stages.parts.scoring.inference import Scorer, class_scores, predicted, student_scorer
from stages.parts.settings import EvaluateConfig
from stages.parts.students.checkpoint import Checkpoint, unpack
from stages.parts.students.inputs import normalised
from stages.running.scoring.texts import scored_texts


def load_student(run_at: Location) -> Checkpoint:
    """The finished student of a run."""
    return unpack(student_bytes(run_at, finished=True), f"{run_at}/{STUDENT}")


def all_text(text: Artifact, words: Vocabulary, checkpoint: Checkpoint, where: str) -> torch.Tensor:
    """Text embeddings [K, D] of seen + unseen classes. Raises InputError where the student knows other seen ones."""
    if checkpoint.seen != words.seen:
        odd = sorted(set(checkpoint.seen) ^ set(words.seen))
        raise InputError(
            f"{where}: trained on other seen classes than split {words.split!r} has ({', '.join(odd[:5])})"
        )
    arrays = text.read(0)
    seen = torch.from_numpy(arrays["seen"])
    if seen.shape != checkpoint.text.shape or not torch.allclose(seen, checkpoint.text, atol=1e-4):
        raise InputError(
            f"{where}: trained with other text embeddings than {text} holds; use its own teacher and prompts"
        )
    return torch.cat([checkpoint.text, torch.from_numpy(arrays["unseen"])])


def class_scorer(
    checkpoint: Checkpoint, text: Artifact, words: Vocabulary, cfg: EvaluateConfig, where: str, device: torch.device
) -> Scorer:
    """Scores of all classes by a student, moved to the device. Raises InputError as `all_text` does."""
    means = all_text(text, words, checkpoint, where).to(device)
    return student_scorer(checkpoint.student.to(device), *scored_texts(means, text, words, cfg))


class StudentPredictor:
    """The finished student of a run, with the text embeddings of all classes. Raises InputError as `all_text` does."""

    def __init__(
        self, run_at: Location, text: Artifact, words: Vocabulary, cfg: EvaluateConfig, device: torch.device
    ) -> None:
        checkpoint = load_student(run_at)
        means = all_text(text, words, checkpoint, str(run_at)).to(device)
        self.student, self.cfg, self.device = checkpoint.student.to(device), cfg, device
        self.num_seen, self.text = len(checkpoint.seen), means.cpu().numpy()
        self.scorer = student_scorer(self.student, *scored_texts(means, text, words, cfg))

    def labels(self, image: Array) -> Array:
        """Predicted class indices of an image uint8 [H, W, 3]: uint8 [H, W]."""
        return predicted(class_scores(self.scorer, image.copy(), self.cfg, self.num_seen, self.device))

    @torch.no_grad()
    def features(self, image: Array, most: int = 0) -> np.ndarray:
        """Dense features F of an image at the evaluation size: float32 [h, w, D].

        `most`: averaged to at most so many cells along the longer side; 0: as they are.
        """
        pixels = torch.from_numpy(image.copy()).to(self.device).permute(2, 0, 1)[None].float()
        factor = self.cfg.short_side / min(image.shape[:2])
        size = (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        features = self.student(normalised(pixels)).float()
        if most and (shrink := most / max(features.shape[2:])) < 1:
            height, width = (max(1, round(side * shrink)) for side in features.shape[2:])
            features = F.adaptive_avg_pool2d(features, (height, width))
        found: np.ndarray = features[0].permute(1, 2, 0).cpu().numpy()
        return found
