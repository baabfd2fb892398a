"""Claims about the house: imports point down only, in no circle; one door a heavy library; parts write nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evidence.counts import circles, graph

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ("clip2seg", "pipeline", "stages", "cache")
FILES = sorted(f for package in HOUSE for f in (ROOT / package).rglob("*.py"))

DOORS = {
    # teach trains the demo's CLIP by open_clip's own loss; it reads no teacher and no stage reads it.
    "open_clip": ("stages/parts/teacher/models.py", "stages/demo/teach.py"),
    "faiss": ("stages/parts/mining/clustering.py", "cache/search.py"),
    "segmentation_models_pytorch": ("stages/parts/students/",),
    "zarr": ("cache/store.py",),
    "obstore": ("cache/location.py",),
    "jinja2": ("stages/parts/drawing/pages.py",),
    "typer": ("pipeline/cli/",),
}
"""Heavy library -> the files that may import it."""

ROOMS = (
    "settings",
    "processes",
    "eval_report",
    "data",
    "demo",
    "drawing",
    "students",
    "scoring",
    "teacher",
    "mining",
    "learning",
)
"""The rooms of stages/parts: each may import from itself and from those before it."""

MOST_FILES = 15
"""Files in a room, `__init__.py` apart."""

BELOW = {
    "clip2seg": ("pipeline", "stages.parts"),
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
    return next(
        f
        for f in ("stages.parts", "stages", "pipeline", "cache", "clip2seg")
        if f == module or module.startswith(f + ".")
    )


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


def test_rooms_of_parts_import_only_rooms_before_them() -> None:
    wrong, modules = [], own_modules()
    for file in (ROOT / "stages/parts").rglob("*.py"):
        own = module_name(file).split(".")
        for wanted in imports(file):
            parts = wanted.split(".")
            both = parts[:2] == own[:2] and len(parts) > 2 and len(own) > 2 and wanted in modules
            if both and ROOMS.index(parts[2]) > ROOMS.index(own[2]):
                wrong.append(f"{module_name(file)} imports {wanted}")
    assert wrong == []
    assert {module.split(".")[2] for module in own_modules() if module.startswith("stages.parts.")} == set(ROOMS)


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(graph(ROOT)) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]  # guards the guard


def test_a_room_has_few_enough_files_to_see_at_a_glance() -> None:
    files = Counter(str(f.parent.relative_to(ROOT)) for f in FILES if f.name != "__init__.py")
    assert {room: number for room, number in files.items() if number > MOST_FILES} == {}


def test_parts_write_no_files() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in sorted((ROOT / "stages/parts").rglob("*.py"))
        for line in writes(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "path.open('wb')",
        "open(path, mode=mode)",
        "image.save(path)",
        "image.save(path, quality=95)",
        "figure.savefig(path)",
        "torch.save(state, path)",
        "save(state, path)",
        "save_file(tensors, path)",
        "write_whole(path, data)",
        "files.write_atomic(path, data)",
        "path.write_bytes(data)",
        "path.mkdir()",
        "path.replace(other)",
        "os.rename(a, b)",
        "shutil.rmtree(folder)",
        "location.put(name, data)",
        "np.savez(path, x=x)",
        "array.tofile(path)",
    ],
)
def test_the_check_sees_each_way_of_writing(line: str) -> None:
    assert list(writes(f"x = 1\n{line}\n")) == [2]


def test_the_check_lets_reading_and_memory_pass() -> None:
    for line in (
        "text.replace('a', 'b')",
        "open(path)",
        "open(path, 'rb')",
        "path.open('rb')",
        "Image.open(path)",
        "av.open(str(path))",
        "self.av.open(self.buffer, 'w')",
        "from safetensors.torch import save\nsave(tensors, about)",
        "image.save(buffer, 'PNG')",
        "figure.savefig(buffer)",
        "torch.save(state, buffer)",
        "dataclasses.replace(view, flip=True)",
        "ctx.save_for_backward(logits)",
    ):
        assert list(writes(line)) == [], line


WRITERS = (
    r"save(?!_for_backward)\w*|write_\w+|to_?file|mkdir|makedirs|touch|unlink|rmtree|rmdir|rename|move"
    r"|copy2?|put(_\w+)?|delete(_all)?"
)
"""Names of calls that write, on whatever object; `replace` and `open` depend on their arguments."""


def writes(source: str) -> Iterator[int]:
    """Lines of a source that write to a disk or a store."""
    tree = ast.parse(source)
    # safetensors' own `save` returns bytes.
    in_memory = any(isinstance(n, ast.ImportFrom) and n.module == "safetensors.torch" for n in ast.walk(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        on = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        to_buffer = any(ast.unparse(a).endswith("buffer") for a in node.args)
        if name == "open":
            # Image.open and av.open take no mode here: they read.
            first = 0 if on not in ("", "io", "os", "av", "Image") else 1
            mode = next((k.value for k in node.keywords if k.arg == "mode"), None)
            mode = mode if mode is not None else next(iter(node.args[first : first + 1]), None)
            wrong = mode is not None and not (isinstance(mode, ast.Constant) and set(str(mode.value)) <= set("rbt"))
            wrong = wrong and not to_buffer
        elif name == "replace":  # of text: two arguments; of a dataclass: keywords; of a path: one
            wrong = len(node.args) == 1 and not node.keywords
        elif name == "save" and not on and in_memory:
            wrong = False
        elif name in ("copy", "move") and on != "shutil":
            wrong = False  # arrays and modules
        else:
            wrong = re.fullmatch(WRITERS, name) is not None and not to_buffer
        if wrong:
            yield node.lineno


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
