"""Text embeddings of single texts, kept beside the cache: of a class's synonyms, and of lists of words.

The artifact `text` holds one embedding a class, the mean of its texts.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cache.digests import fingerprint
from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from stages.parts.data.vocabulary import Vocabulary
from stages.parts.data.words import Word
from stages.parts.settings import EvaluateConfig
from stages.parts.teacher.texts import encode_texts, owners
from stages.running.progress import say

if TYPE_CHECKING:
    from torch import Tensor

    from stages.parts.teacher.texts import Encode


def embedded(text: Artifact, words: Sequence[Word], prompts: Sequence[str], encode: Callable[[], Encode]) -> np.ndarray:
    """One row a text [R, D], class by class (`encode_texts`): those kept beside the artifact `text`.

    Where none are kept, `encode` loads what makes them, and they are.
    """
    if (kept := _kept(text, words)) is not None:
        return kept
    say(f"{len(words)} words are embedded, once")
    found: np.ndarray = encode_texts(encode(), words, prompts).float().cpu().numpy()
    buffer, at = io.BytesIO(), _place(text, words)
    np.save(buffer, found)
    at.put("words.npy", buffer.getvalue())
    at.put_mark("words.json", {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "words": len(words)})
    return found


def scored_texts(
    means: Tensor, text: Artifact, vocabulary: Vocabulary, cfg: EvaluateConfig
) -> tuple[Tensor, tuple[int, ...]]:
    """What classes are scored by: their `means` [K, D], or, where the best text counts, the rows of all texts [R, D]
    with the class of each, on the same device.

    Raises InputError where those rows are not kept.
    """
    import torch

    if cfg.of_words(vocabulary.several).synonyms == "mean":
        return means, ()
    words = vocabulary.words
    if (rows := _kept(text, words)) is None:
        where = _place(text, words)
        raise InputError(f"{where}: the texts of eval.synonyms = max are not embedded; run `clip2seg eval` first")
    return torch.from_numpy(rows).to(means.device), owners(words)


def _place(text: Artifact, words: Sequence[Word]) -> Location:
    names = [word.name if word.plain else [word.name, *word.texts] for word in words]
    made_of = {"text": text.provenance()["ingredients"]["words"], "names": names}
    return text.at.parent.child(f"words-{fingerprint(made_of)}")


def _kept(text: Artifact, words: Sequence[Word]) -> np.ndarray | None:
    at = _place(text, words)
    mark, data = at.get_mark("words.json"), at.get("words.npy")
    if mark and data and mark.get("sha256") == hashlib.sha256(data).hexdigest():
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    return None
