"""Settings that travel together: those that decide what the cache holds, and those that training reads."""

from __future__ import annotations

from dataclasses import dataclass

from stages.parts.data.datasets import Dataset
from stages.parts.data.views import ViewsConfig
from stages.parts.settings import (
    AffinityConfig,
    DistillConfig,
    ExtractConfig,
    GeneratorConfig,
    MiningConfig,
    PixelLossConfig,
    RefineConfig,
    TrainConfig,
)
from stages.parts.students import StudentConfig
from stages.parts.teacher.settings import TeacherConfig


@dataclass(frozen=True)
class CacheRecipe:
    """All settings that decide what the cache holds: teacher, views, what is stored of them, mining, refinement."""

    teacher: TeacherConfig
    views: ViewsConfig
    extract: ExtractConfig
    mining: MiningConfig
    refine: RefineConfig
    affinity: AffinityConfig


@dataclass(frozen=True)
class TrainRecipe:
    """All settings that training reads."""

    train: TrainConfig
    views: ViewsConfig
    student: StudentConfig
    distill: DistillConfig
    latent_embedding: GeneratorConfig
    pixel_loss: PixelLossConfig
    min_confidence: float = 0.0
    """Least confidence of a latent region for training to know its concept."""

    @property
    def distilled(self) -> bool:
        """Whether training reads tokens and latent classes; the baseline of Table 3 does not."""
        return self.distill.loss != "none" or self.latent_embedding.enabled

    def reads_pseudo_labels(self, data: Dataset) -> bool:
        """Whether training reads pseudo labels: where photos of `data` have no mask that is read."""
        return bool(self.pixel_loss.pseudo_weight and data.unlabelled)

    @property
    def compares_concepts(self) -> bool:
        """Whether concepts say which latent regions of a batch are no negatives of each other."""
        d = self.distill
        used = d.loss == "infonce" and d.use_local and d.negatives == "batch"
        return used and d.same_concept != "negative"

    @property
    def concept_classes(self) -> bool:
        """Whether the latent classes of the pixel loss are concepts."""
        return self.latent_embedding.enabled and self.latent_embedding.classes == "concept"

    @property
    def reads_concepts(self) -> bool:
        """Whether training reads the concepts of latent regions."""
        return self.compares_concepts or self.concept_classes
