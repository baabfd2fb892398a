"""inspect: what a trained student sees of one image, for pictures beside the teacher's."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from stages.parts.data.views import Array
from stages.parts.scoring.inference import class_scores, predicted, student_scorer
from stages.parts.settings import EvaluateConfig
from stages.parts.students.checkpoint import Checkpoint
from stages.parts.students.inputs import normalised


class StudentPredictor:
    """A trained student with the text embeddings [K, D] of all classes."""

    def __init__(self, checkpoint: Checkpoint, text: torch.Tensor, cfg: EvaluateConfig, device: torch.device) -> None:
        self.student, self.cfg, self.device = checkpoint.student.to(device), cfg, device
        self.text: np.ndarray = text.cpu().numpy()
        self.num_seen, self.scorer = len(checkpoint.seen), student_scorer(self.student, text.to(device))

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
