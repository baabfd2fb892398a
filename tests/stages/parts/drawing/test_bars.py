"""The bar chart of an ablation table: what is drawn is what the table says."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from stages.parts.drawing.bars import INK, Score, score_bars

ROWS = {
    "baseline": {"hIoU": Score(10.0, 3.0), "sIoU": Score(50.0, 1.0), "uIoU": Score(5.5)},
    "ours <&>": {"hIoU": Score(40.0), "sIoU": Score(None), "uIoU": Score(20.0, 2.0)},
}


def test_every_name_and_mean_stands_in_the_drawing_as_text() -> None:
    made = score_bars("demo, Table 3", ROWS)
    texts = ["".join(node.itertext()).strip() for node in ElementTree.fromstring(made).iter() if "text" in node.tag]
    assert {"demo, Table 3", "baseline", "ours <&>", "hIoU", "sIoU", "uIoU"} <= set(texts)
    assert {"10.0", "50.0", "5.5", "40.0", "20.0", "-"} <= set(texts)
    assert made == score_bars("demo, Table 3", ROWS)  # no date, no random names
    assert made != score_bars("demo, Table 3", ROWS | {"third": ROWS["baseline"]})


def test_bars_are_as_long_as_their_means() -> None:
    lengths = []
    for path in re.findall(
        r'<path d="([^"]+)"[^>]*clip-path[^>]*style="fill: #[0-9a-f]{6}', score_bars("", ROWS).decode()
    ):
        x = [float(v) for v in re.findall(r"[ML] (\S+) \S+", path)]
        lengths.append(max(x) - min(x))
    assert len(lengths) == 6
    assert np.allclose(np.array(lengths) / lengths[0], [1, 4, 5, 0, 0.55, 2], atol=0.01)  # column after column


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_on_the_page_it_is_made_for(dark: bool) -> None:
    assert INK[dark] in score_bars("", ROWS, dark=dark).decode()
    picture = np.asarray(Image.open(io.BytesIO(score_bars("", ROWS, dark=dark, kind="png"))))
    assert picture.shape[2] == 4 and picture[0, 0, 3] == 0  # the page shows through
