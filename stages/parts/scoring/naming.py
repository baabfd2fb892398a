"""What to call a concept: the words of a list nearest to its mean token, and whether any of them explains it.

Cosines between a picture's and a word's embedding are all small and some words are near to everything. So what all
regions have in common with a word is taken off, and what is left is counted in standard deviations over the list. What
"near" means is learned from the seen classes, whose right names are known. K: concepts, W: words, D: embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.vectors import unit

Floats = NDArray[np.float32]
PER_CENT = 10
"""Percentile of the seen classes' own scores below which no word explains a concept."""
FALLBACK = 3.0
"""The same score where fewer than `FEW` seen classes could teach it."""
FEW = 5
SAME = 1e-5
"""Words whose embeddings differ by less are one to the teacher: it knows neither."""


@dataclass(frozen=True)
class Named:
    """Best words of one concept with their scores, best first; `margin` of the best over the next; `explained`.

    `near_seen`: the name of a seen class that scores higher than all of them, or "".
    """

    words: tuple[tuple[str, float], ...]
    margin: float
    explained: bool
    near_seen: str


@dataclass(frozen=True)
class Naming:
    """How concepts are named: usable words and their embeddings [W, D], what all regions share [D], least score.

    The words that are names of seen classes are no candidates: what has no label is none of these.
    """

    words: tuple[str, ...]
    text: Floats
    common: Floats
    least: float
    unusable: int
    """Words of the list that the teacher can't tell from another one."""
    seen: tuple[str, ...]
    seen_text: Floats

    def name(self, tokens: Floats, best: int = 5) -> list[Named]:
        """Names of mean tokens [K, D]."""
        found, count = [], len(self.words)
        for row in scores(tokens, np.concatenate([self.text, self.seen_text]), self.common):
            order = np.argsort(-row[:count], kind="stable")[: max(best, 2)]
            words = tuple((self.words[i], round(float(row[i]), 2)) for i in order[:best])
            margin = float(row[order[0]] - row[order[1]]) if len(order) > 1 else 0.0
            nearest = int(row[count:].argmax()) if len(self.seen) else -1
            near = self.seen[nearest] if nearest >= 0 and row[count + nearest] > row[order[0]] else ""
            found.append(Named(words, round(margin, 2), bool(row[order[0]] >= self.least), near))
        return found


def learn(
    words: Sequence[str], text: Floats, common: Floats, seen: Sequence[str], seen_tokens: Floats, seen_text: Floats
) -> Naming:
    """The naming by a list: `words` with embeddings [W, D], `common` [D], the mean unit token of all regions.

    `seen` classes with their mean tokens and the embeddings of their names, [K_s, D] each, teach how high a right name
    scores.
    """
    text, seen_text = unit(text), unit(seen_text)
    apart, plain = _apart(text), {same(name) for name in seen}
    kept = [i for i in apart if same(words[i]) not in plain]
    usable, least = text[kept], FALLBACK
    if len(seen) >= FEW and len(usable):
        found = scores(seen_tokens, np.concatenate([usable, seen_text]), common)
        own = found[np.arange(len(seen)), len(usable) + np.arange(len(seen))]
        least = float(np.percentile(own, PER_CENT))
    names = tuple(words[i] for i in kept)
    return Naming(names, usable, unit(common), round(least, 2), len(words) - len(apart), tuple(seen), seen_text)


def same(name: str) -> str:
    """A name as it is compared: in small letters, blanks and hyphens apart; pottedplant is potted plant."""
    return name.lower().replace(" ", "").replace("-", "")


def scores(tokens: Floats, text: Floats, common: Floats) -> Floats:
    """Standard deviations over the words by which each word is nearer than usual: [K, D], [W, D], [D] -> [K, W]."""
    cosine = (unit(tokens) - unit(common)) @ text.T
    spread = cosine.std(axis=1, keepdims=True)
    found: Floats = (cosine - cosine.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-9)
    return found


def _apart(text: Floats) -> NDArray[np.int64]:
    """Rows of unit text [W, D] that no other row equals."""
    _, inverse, counts = np.unique(
        np.round(text / SAME).astype(np.int64), axis=0, return_inverse=True, return_counts=True
    )
    return np.flatnonzero(counts[inverse.reshape(-1)] == 1)
