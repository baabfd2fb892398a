from __future__ import annotations

from pathlib import Path

from pipeline.config import Config, table_type
from pipeline.reference import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs/presets.md"


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `python -m pipeline.reference > docs/presets.md`"


def test_every_setting_stands_on_it_with_its_limits() -> None:
    page = markdown()
    for name, field in Config.model_fields.items():
        assert f"## [{field.alias}]" in page
        for key, setting in table_type(name).model_fields.items():
            assert f"| `{key}` |" in page and setting.description, f"{name}.{key}"
    assert "| `tau` | number, > 0 | `0.07` |" in page and '`"infonce"` or `"cosine"`' not in page.split("\n")[0]
