"""examples/demo.ipynb: executed, small, and every cell of it still runs, on a world of some photos."""

from __future__ import annotations

import ast
import json
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli import app

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples/demo.ipynb"
SMALL = (
    "--set demo-world.train=16 --set demo-world.val=60 --set student.encoder=mobilenet_v2 --set train.iterations=2 "
    "--set train.warmup=0 --set eval.pictures=0"
)


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_stored_notebook_was_executed_from_top_to_bottom_and_is_small() -> None:
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert NOTEBOOK.stat().st_size < 1_000_000


def script() -> str:
    """The cells as a program: a line that begins with ! is a command, the value of a cell's last line is shown."""
    lines = []
    for cell in code_cells():
        source = "".join(cell["source"])
        if source.startswith("!clip2seg "):
            words = source.removeprefix("!clip2seg ").removesuffix(" 2>&1 | cat")
            lines.append(f"command(f{words!r})")
            continue
        tree = ast.parse(source)
        if isinstance(tree.body[-1], ast.Expr):
            tree.body[-1] = ast.parse(f"show({ast.unparse(tree.body[-1])})").body[0]
        lines.append(ast.unparse(tree))
    return "\n".join([lines[0], f"settings = {SMALL!r}", *lines[1:]])


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notebook.py").write_text(script())
    shown: list[Any] = []
    given = {"show": shown.append, "command": lambda text: app(shlex.split(text), standalone_mode=False)}
    names = runpy.run_path("notebook.py", given)
    pictures = [np.asarray(one) for one in shown if hasattr(one, "convert")]
    assert [picture.shape[:2] for picture in pictures[:1]] == [(128, 788)] and len(pictures) == 3
    assert all(picture.std() > 10 for picture in pictures)
    assert set(names["found"].classes) == {"flower", "fish", "water", "snow"}
    assert {"global", "local", "dense", "cells"} <= set(names["view"])
