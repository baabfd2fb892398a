from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pipeline.reference import markdown

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/presets.md"
PRESETS = sorted([*(ROOT / "pipeline/presets").glob("*.toml"), *(ROOT / "experiments").glob("*.toml")])


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `python -m pipeline.reference > docs/presets.md`"


def rows_by_table(page: str) -> dict[str, set[str]]:
    """Table name -> keys that the page describes in more than a word."""
    found: dict[str, set[str]] = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        name = re.match(r"\[(\S+)\]", section)
        assert name is not None
        found[name[1]] = set(re.findall(r"^\| `(\w+)` \| .+ \| .+ \| (?:\S+ ){2,}.*\|$", section, re.MULTILINE))
    return found


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_whatever_a_preset_sets_is_described_on_the_page(preset: Path) -> None:
    described = rows_by_table(PAGE.read_text(encoding="utf-8"))
    tables = {k: v for k, v in tomllib.loads(preset.read_text()).items() if isinstance(v, dict)}
    assert {(table, key) for table, keys in tables.items() for key in keys if key not in described[table]} == set()


def test_a_row_says_limits_default_and_choices() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for row in (
        "| `tau` | number, > 0 | `0.07` |",
        "| `count` | integer, ≥ 1 | `1` |",
        '| `negatives` | `"image"` or `"batch"` | `"batch"` |',
    ):
        assert row in page
