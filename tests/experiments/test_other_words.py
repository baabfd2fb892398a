"""The same photos under other words: every pixel keeps its meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.other_words import write
from pipeline.config import load_config
from pipeline.plan import Plan

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_masks_say_the_new_words_and_what_has_no_class_stays_without(tiny: Tiny, fresh_tiny: Tiny) -> None:
    data, out = tiny.plan().val_data, fresh_tiny.root / "words"
    write(data, {"round": ("disc",), "edged": ("box", "cross"), "striped": ("stripes",)}, out)
    config = load_config(str(out / "words.toml"), [])
    made = Plan(config, "words", str(out / "artifacts"), str(out)).val_data
    assert made.ids == data.ids and made.vocabulary.seen == ("round", "edged", "striped")
    meaning = np.full(256, 255)
    for name, word in (("disc", 0), ("stripes", 2), ("box", 1), ("cross", 1)):
        meaning[data.vocabulary.ordered.index(name)] = word
    for i in range(len(data)):
        assert (made.labels(i, "all") == meaning[data.labels(i, "all")]).all()
        assert (made.image(i) == data.image(i)).all()
