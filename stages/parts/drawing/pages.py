"""HTML pages, each one file: Jinja templates with autoescape, so that a name from a file is text and never markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent / "templates"


def page(template: str, script: str = "", **values: Any) -> str:
    """The page of a template of `templates/`; `script`: a file of that folder, which the page holds and runs.

    The page's Content-Security-Policy names the script's digest: no other one runs, wherever it came from.
    """
    code = (_FOLDER / script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    runs = f"'sha256-{digest}'" if script else "'none'"
    return _environment().get_template(template).render(**values, script=code, script_runs=runs)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": _number, "signed": _signed, "rgb": _rgb, "png": _png, "plain": _plain}
    return made


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:+.1f}".replace("-", "−")


def _rgb(colour: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _png(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _plain(value: object) -> str:
    """JSON of a setting as people write it."""
    return json.dumps(value, ensure_ascii=False)
