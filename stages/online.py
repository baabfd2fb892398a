"""online teacher: computes inside the training loop what `extract` and `mine-latent` would have cached.

It exists to prove the cache and to measure it (method.md section 6): the same functions, the same rounding, so the
losses are those of cached training. With `extract.batch` = 1 they are the same bit for bit on the CPU; else the
teacher sees other batches, which may change the last bit of a token. Loads CLIP; `train` itself never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stages.parts.learning.batches import Batch, CachedTokens, TrainingSet, collate
from stages.parts.mining.clustering import on_gpu
from stages.parts.mining.miner import Miner, crops_of, latent_arrays
from stages.parts.teacher.crops import BadView, TeacherView, TeacherViews, collate_views
from stages.parts.teacher.refine import Refiner
from stages.parts.teacher.teacher import Teacher
from stages.parts.teacher.tokens import encode, encode_crops, token_arrays
from stages.running.recipes import CacheRecipe


@dataclass(frozen=True)
class OnlineTeacher:
    """Batches for training whose tokens are made when they are asked for."""

    teacher: Teacher
    recipe: CacheRecipe

    def tokens(self, num_seen: int, rows: int) -> CachedTokens | None:
        """None: the tokens of a batch are made when it is asked for."""
        return None

    def batches(self, training: TrainingSet, sampler: Iterable[list[tuple[int, int]]]) -> Iterator[Batch]:
        """The batches of the sampler, lists of (image, epoch). Raises BadSample for an unusable image."""
        views, teacher = training.views.count, self.teacher
        source = TeacherViews(training.data, training.views, teacher.input_size, teacher.crop_size)
        gpu = on_gpu("auto", teacher.device.type == "cuda")
        refiner = Refiner(self.recipe.refine, self.recipe.affinity)
        miner = Miner(self.recipe.mining, training.data, training.views, teacher.crop_size, gpu, refiner)
        for items in sampler:
            rows = sorted({training.images[place] * views + epoch % views for place, epoch in items})
            own = training.with_tokens(self._made(source, miner, rows, training.num_seen))
            yield collate([own[item] for item in items])

    def _made(self, source: TeacherViews, miner: Miner, rows: list[int], num_seen: int) -> CachedTokens:
        parts = [rows[i : i + self.recipe.extract.batch] for i in range(0, len(rows), self.recipe.extract.batch)]
        views = [[_usable(source, row) for row in part] for part in parts]
        encoded = [encode(self.teacher, collate_views([*part]), self.recipe.extract).arrays() for part in views]
        joined = {k: np.concatenate([e[k] for e in encoded]) for k in encoded[0]}
        with miner.pool(1) as pool:
            found = list(pool.map(miner.mine, rows, joined["dense"].astype(np.float32)))
        local = [
            encode_crops(self.teacher, crops_of(found[i : i + self.recipe.extract.batch]), self.recipe.extract)
            for i in range(0, len(found), self.recipe.extract.batch)
        ]
        every = [view for part in views for view in part]
        return CachedTokens.joined(
            [view.id for view in every],
            token_arrays(every, joined),
            latent_arrays(found, np.concatenate(local), self.teacher.grid),
            num_seen,
        )


def _usable(source: TeacherViews, row: int) -> TeacherView:
    view = source[row]
    if isinstance(view, BadView):
        raise view.error
    return view
