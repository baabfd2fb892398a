from __future__ import annotations

from typing import Any

from stages.parts.drawing.model_card import model_card, text
from tests.reports import eval_report

REPORT: dict[str, Any] = {
    "format": "onnx",
    "classes": [{"name": "cat", "seen": True}, {"name": "sheep", "seen": False}],
    "short_side": 256,
    "smallest_side": 33,
    "seen_bias": 0.0,
    "photos": 3,
    "photos_from": "photos of the folder x",
    "pixels": 1000,
    "agreement": 0.9995,
    "largest_difference": 1.5e-5,
    "largest_score": 4.0,
}


def test_markdown_and_html_in_names_are_shown_as_text() -> None:
    assert text("<script>x</script>") == "&lt;script&gt;x&lt;/script&gt;"
    assert text("[a](http://x)") == "\\[a\\](http://x)"
    assert text("one\n# two") == "one \\# two"
    assert "\n" not in text({"a": "b\n"})


def test_a_card_holds_the_numbers_of_its_report_and_says_what_is_not_known() -> None:
    facts: dict[str, Any] = {"student": "fpn + x", "training": {"teacher": "clip"}, "scores": None}
    card = model_card(REPORT, facts)
    assert "99.9500 % of 1000 pixels" in card and "1.50e-05" in card
    assert "Labelled in training (1): cat" in card and "Never labelled in training (1): sheep" in card
    assert "Not evaluated" in card and "sets no licence" in card
    scores = eval_report("val", images=7, sIoU=50.0, pixel_accuracy=61.25)
    card = model_card(REPORT, {**facts, "scores": scores})
    assert "| val | - | 50.0 | - | 61.2 |" in card
    assert "| classes with 5 pixels | - | 12.5 | - | 50.0 |" in card and "7 images" in card
