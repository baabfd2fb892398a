"""Text embeddings of classes that several texts stand for: synonyms, descriptions, prompts of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stages.parts.data.words import Word

if TYPE_CHECKING:
    from torch import Tensor

    Encode = Callable[[Sequence[str], Sequence[str]], Tensor]


def encode_texts(encode: Encode, words: Sequence[Word], prompts: Sequence[str]) -> Tensor:
    """One row a text, class by class: [R, D], float32, unit norm.

    encode: names, templates -> [K, D] (`TextTower.encode`). A text with `{}` is the class's only template, filled with
    its name; the others go into every prompt.
    """
    import torch

    texts = [(word.name, text) for word in words for text in word.texts]
    plain = [text for _, text in texts if "{}" not in text]
    found = iter(encode(plain, prompts)) if plain else iter(())
    return torch.stack([encode([name], [text])[0] if "{}" in text else next(found) for name, text in texts])


def class_means(rows: Tensor, words: Sequence[Word]) -> Tensor:
    """The mean of each class's rows, unit norm again: [R, D] -> [K, D]. A class of one text keeps its row."""
    import torch

    parts = rows.split([len(word.texts) for word in words])
    return torch.stack([p[0] if len(p) == 1 else torch.nn.functional.normalize(p.mean(0), dim=0) for p in parts])


def owners(words: Sequence[Word]) -> tuple[int, ...]:
    """The class that each row of `encode_texts` stands for."""
    return tuple(k for k, word in enumerate(words) for _ in word.texts)
