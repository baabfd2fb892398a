"""A reader finds every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("bad-input.md",)
"""Made by a program that shows messages as they are printed, each on one line."""
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED),
]


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index] == ["README.md"]


WIDEST = 120
"""Letters in a line that a reader takes in, and that an editor of two columns shows."""


def too_long(text: str) -> list[str]:
    """Lines wider than `WIDEST`, tables apart: Markdown lets no row be broken, nor a printed column be cut."""
    found = [line for line in text.splitlines() if len(line) > WIDEST and not line.lstrip().startswith("|")]
    return [line for line in found if len(re.split(r" {2,}", line.strip())) < 4]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_is_wider_than_a_reader_takes_in(page: Path) -> None:
    assert too_long(page.read_text(encoding="utf-8")) == []


def test_the_check_sees_a_long_line_and_lets_tables_pass() -> None:
    prose = "word " * 30
    assert too_long(f"short\n{prose}\n| {prose} |\n{'1.5       ' * 15}") == [prose]
