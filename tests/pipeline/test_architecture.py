"""Claims about the house: imports point down only, and each heavy library has one door."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ("pipeline", "stages", "cache")
FILES = sorted(f for package in HOUSE for f in (ROOT / package).rglob("*.py"))

DOORS = {
    # teach trains the demo's CLIP by open_clip's own loss; it reads no teacher and no stage reads it.
    "open_clip": ("stages/parts/teacher/teacher.py", "stages/demo/teach.py"),
    "faiss": ("stages/parts/mining/clustering.py", "cache/search.py"),
    "segmentation_models_pytorch": ("stages/parts/students/",),
    "zarr": ("cache/store.py",),
    "obstore": ("cache/location.py",),
    "typer": ("pipeline/cli/",),
}
"""Heavy library -> the files that may import it."""

BELOW = {
    "pipeline": ("pipeline", "stages", "cache"),
    "stages": ("stages.parts", "stages.running", "cache"),
    "stages.parts": (
        "stages.parts",
        "cache.settings",
        "cache.errors",
        "cache.digests",
        "cache.headers",
        "cache.vectors",
    ),
    "cache": ("cache",),
}
"""Floor of the house -> what it may import of this project."""


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it; relative ones are an error of style."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules() -> set[str]:
    return {module_name(f) for f in FILES}


def floor(module: str) -> str:
    return next(f for f in ("stages.parts", "stages", "pipeline", "cache") if f == module or module.startswith(f + "."))


def inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_down_only(file: Path) -> None:
    modules = own_modules()
    for wanted in imports(file):
        if wanted in modules and wanted not in HOUSE:  # a name that is no module is an attribute of one
            assert inside(wanted, BELOW[floor(module_name(file))]), f"{module_name(file)} imports {wanted}"


def test_the_check_sees_an_upward_import(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f():\n    from pipeline import plan\n    import stages.train\n")
    found = list(imports(tmp_path / "bad.py"))
    assert {"pipeline.plan", "stages.train"} <= set(found) & own_modules()
    assert not inside("pipeline.plan", BELOW["stages.parts"]) and not inside("stages.train", BELOW["stages"])


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_its_door(library: str) -> None:
    users = {str(f.relative_to(ROOT)) for f in FILES if any(inside(name, (library,)) for name in imports(f))}
    assert users, f"nothing imports {library}: correct this test"
    assert [user for user in users if not user.startswith(DOORS[library])] == []


def test_parts_write_no_files() -> None:
    writers = {"write_text", "write_bytes", "mkdir", "unlink", "rename", "replace", "savefig", "to_file"}
    for file in (ROOT / "stages/parts").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            on_text = node.func.attr == "replace" and len(node.args) + len(node.keywords) != 1
            assert node.func.attr not in writers or on_text or in_memory(node), f"{file}:{node.lineno}"


def in_memory(call: ast.Call) -> bool:
    """`figure.savefig(buffer)`: bytes, not a file."""
    return bool(call.args) and isinstance(call.args[0], ast.Name) and call.args[0].id == "buffer"


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_help_loads_no_heavy_library() -> None:
    code = "from pipeline.cli import app\ntry:\n    app(['--help'], prog_name='clip2seg')\nexcept SystemExit:\n    pass"
    assert not modules_after(code) & {"torch", "zarr", "faiss", "open_clip", "timm", "matplotlib", "scipy"}


def test_training_and_scoring_do_not_know_clip_or_faiss() -> None:
    loaded = modules_after(
        "import stages.train, stages.evaluate, stages.parts.scoring.inference, stages.parts.learning.learner"
    )
    assert "torch" in loaded
    assert not loaded & {"open_clip", "faiss", "transformers"}
