"""Student, distillation and losses as one module: a batch in, every loss term out (method.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cache.settings import IGNORE
from stages.parts.learning.batches import Batch
from stages.parts.learning.distillation import Distiller, Others, region_means
from stages.parts.learning.distributed import all_gather, gather_from_others
from stages.parts.learning.generator import LatentGenerator, concept_classes
from stages.parts.learning.losses import pixel_logits, pixel_loss
from stages.parts.learning.pixel_sums import MASKED
from stages.parts.processes import rank_and_world
from stages.parts.settings import DistillConfig, GeneratorConfig, PixelLossConfig
from stages.parts.students import Student


class Learner(nn.Module):
    """What is optimised, as one module. `text` A_s [K_s, D]: embeddings of the seen classes only, unit norm.

    `prototypes` [K_c, D], of the concepts of latent regions: regions of one concept are one class of the pixel loss;
    None: each region is its own.
    """

    text: Tensor
    prototypes: Tensor | None

    def __init__(
        self,
        student: Student,
        text: Tensor,
        distill: DistillConfig,
        generator: GeneratorConfig,
        pixel: PixelLossConfig,
        prototypes: Tensor | None = None,
    ) -> None:
        super().__init__()
        dim = text.shape[1]
        self.student, self.pixel = student, pixel
        self.layout = torch.channels_last
        """How images and kernels lie in memory."""
        self.compiled = False
        """Whether the pixel loss is compiled."""
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("prototypes", prototypes, persistent=False)
        self.distiller = Distiller(distill, dim) if distill.loss != "none" else None
        self.generator = LatentGenerator(generator, dim) if generator.enabled else None

    def forward(self, batch: Batch, iteration: int | None = None) -> dict[str, Tensor]:
        """Every loss term, weighted, and their sum `total` (Eq. 6); all float32 scalars.

        Before iteration `latent-embedding.delay`, latent regions are not classes of the pixel loss; None: after it.
        """
        features = self.student(batch.student_input(self.layout))
        terms: dict[str, Tensor] = {}
        latent = filled = counted = None
        masks, local = batch.masks, batch.local
        if self.prototypes is not None:
            masks, local, counted = concept_classes(batch, self.prototypes)
        if self.distiller is not None or self.generator is not None:
            means = region_means(features, batch.masks, batch.regions)
            if self.distiller is not None:
                every, first = all_gather(batch.tokens), rank_and_world()[0] * len(batch.images)
                terms["global"] = self.distiller.global_loss(features, batch.tokens, every, first)
                others = _regions_of_others(batch) if self.distiller.cfg.negatives == "batch" else None
                terms["local"] = self.distiller.local_loss(means, batch.local, batch.regions, len(self.text), others)
            if self.generator is not None:
                if counted is not None:  # L_l above is of regions, whose teacher tokens it compares with
                    means = region_means(features, masks, batch.regions)
                latent, filled = self.generator(means, batch.tokens, local, batch.regions, len(self.text), counted)
        if self.generator is not None and iteration is not None and iteration < self.generator.cfg.delay:
            # Computed and masked, not skipped: every parameter has a gradient, as other processes expect.
            filled = torch.zeros_like(filled)  # type: ignore[arg-type]
            masks = torch.where(masks < len(self.text), masks, IGNORE)
        logits = pixel_logits(features, self.text, latent, filled, self.pixel)
        terms |= self._pixel_terms(logits, masks, batch)
        return {"total": torch.stack(list(terms.values())).sum(), **terms}

    def _pixel_terms(self, logits: Tensor, masks: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The pixel loss of photos with labels; of the others none, that of their latent classes alone, or of `pseudo`.

        Their seen classes are not known, so no score of a seen class may be told that it is wrong there, but for what
        pseudo labels say. Latent columns have no part in those: a region has its latent id and its name at once. All
        processes make the same calls, whatever their photos are.
        """
        withheld, pseudo = batch.withheld, batch.pseudo
        if not batch.labelled:
            return pixel_loss(logits, masks, self.pixel, withheld=withheld, compiled=self.compiled)
        rows, rest = ([b for b, own in enumerate(batch.labelled) if own is wanted] for wanted in (True, False))
        own_withheld = None if withheld is None else _of(withheld, rows)
        own, others = _of(logits, rows), _of(logits, rest)
        terms = pixel_loss(own, _of(masks, rows), self.pixel, withheld=own_withheld, compiled=self.compiled)
        if self.pixel.unlabelled == "latent":
            seen = len(self.text)
            latent = torch.where((masks >= seen) & (masks != IGNORE), masks - seen, IGNORE)
            columns = others[:, seen:]
            if not columns.shape[1]:
                columns = logits.new_full((len(rest), 1, *logits.shape[2:]), MASKED)
            free = pixel_loss(columns, _of(latent, rest), self.pixel, compiled=self.compiled)
            terms = {name: terms[name] + free[name] for name in terms}
        if pseudo is not None:
            known = self.pixel.model_copy(update={"ignored_are_negatives": False})
            named = others[:, : len(self.text)]
            guessed = pixel_loss(named, _of(pseudo, rest), known, compiled=self.compiled)
            terms = {name: terms[name] + self.pixel.pseudo_weight * guessed[name] for name in terms}
        return terms

    def compile_parts(self, *, student: bool) -> None:
        """torch.compile for the pixel loss, and for the `student` too where that is asked for.

        Those alone: their shapes never change, but for the number of classes, while the regions of every batch are
        other ones.
        """
        self.compiled = True
        if student:
            self.student.compile()

    def extras(self) -> dict[str, nn.Module]:
        """What training needs besides the student: the bank, FROSTER's head, the generator."""
        both = {"distiller": self.distiller, "generator": self.generator}
        return {name: module for name, module in both.items() if module is not None}


def _of(maps: Tensor, photos: Sequence[int]) -> Tensor:
    """The maps of some photos of a batch [B, ...]. By views: an index of numbers would make the host wait."""
    each = maps.unbind()
    return torch.stack([each[b] for b in photos]) if photos else maps[:0]


def _regions_of_others(batch: Batch) -> Others:
    """Tokens, ids and concepts of the regions on other processes; one message for all."""
    numbers = torch.stack([batch.regions.id, batch.regions.concept], dim=1)
    rows = gather_from_others(torch.cat([batch.local, numbers.to(batch.local.dtype)], dim=1))
    return Others(rows[:, :-2], rows[:, -2].long(), rows[:, -1].long())
