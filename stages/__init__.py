"""What each step does: a file per stage, which reads the cache, loops, and writes the cache. No stage imports another.

| stage | file | reads | writes |
|---|---|---|---|
| extract | extract.py | images, labels, teacher | tokens, text, dense, affinity |
| mine-latent | mine_latent.py | images, labels, tokens, dense, teacher | latent |
| mine-concepts | mine_concepts.py | latent | concepts, membership |
| pseudo-label | pseudo_label.py | tokens, dense, text, teacher where dense is not stored | pseudo |
| train | train.py | images, labels, tokens, latent, text; concepts, membership and pseudo on request | train |
| eval | evaluate.py | images, labels, train, text | eval |

The plan reads the table below. Beside these: predict, export, calibrate, report, verify and inspect (they read what was
made), online (a teacher for `train` in the place of the cache), data/ and demo/ (data sets).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stage's name on the command line, what it reads, and the kinds of artifacts that it writes."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


STAGES = (
    Stage("extract", ("images", "labels", "teacher"), ("tokens", "text", "affinity", "dense")),
    Stage("mine-latent", ("images", "labels", "tokens", "dense", "teacher"), ("latent",)),
    Stage("mine-concepts", ("latent",), ("concepts", "membership")),
    Stage("pseudo-label", ("tokens", "dense", "text"), ("pseudo",)),
    Stage("train", ("images", "labels", "tokens", "latent", "concepts", "membership", "pseudo", "text"), ("train",)),
    Stage("eval", ("images", "labels", "train", "text"), ("eval",)),
)
"""The pipeline in its order."""
