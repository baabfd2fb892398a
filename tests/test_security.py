"""Claims about what the code never does, whatever it is given; docs/security.md lists all promises with their tests.

What happens with hostile files is shown by running: tests/pipeline/bad_input_cases.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(f for package in ("pipeline", "stages", "cache") for f in (ROOT / package).rglob("*.py"))
PAGE = ROOT / "docs/security.md"

SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
"""Loaders that can run a file's code, and the argument that forbids it."""
NEVER = (
    r"(pickle|cPickle|dill|marshal|shelve|joblib|yaml)\.(loads?|open|Unpickler|load_all|unsafe_load|full_load)",
    r"(eval|exec|compile|__import__)",
    r"os\.(system|popen|exec\w+|spawn\w+)",
    r"(tarfile|zipfile)\.\w+|\w*\.extractall|shutil\.unpack_archive",
    r"torch\.(jit\.load|hub\.\w+)",
)
"""Calls that run what a file or a name says, or unpack an archive."""
ALLOWED = {
    ("stages/parts/teacher/files.py", "zipfile.is_zipfile"): "looks whether a file is an archive, to refuse it",
    ("stages/parts/teacher/files.py", "zipfile.ZipFile"): "lists the names in it; unpacks nothing",
    ("stages/parts/data/formats/webdataset.py", "tarfile.TarFile"): "lists names and offsets; unpacks nothing",
}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name and node of every call in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults(source: str, where: str = "") -> list[str]:
    """Calls of a file that break a promise."""
    found = []
    for name, node in calls(source):
        if name in SAFE:
            key, value = SAFE[name]
            given = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg == key}
            if given != {key: value}:
                found.append(f"{where}:{node.lineno}: {name} without {key}={value}")
        elif any(re.fullmatch(pattern, name) for pattern in NEVER) and (where, name) not in ALLOWED:
            found.append(f"{where}:{node.lineno}: {name}")
        if any(
            k.arg == "shell" and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in node.keywords
        ):
            found.append(f"{where}:{node.lineno}: a shell")
    return found


def test_no_file_runs_code_from_data_or_unpacks_an_archive() -> None:
    assert [fault for f in FILES for fault in faults(f.read_text(), str(f.relative_to(ROOT)))] == []
    assert sum(name in SAFE for f in FILES for name, _ in calls(f.read_text())) >= 3, "correct the names in SAFE"


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path)",
        "pickle.loads(data)",
        "yaml.load(data)",
        "eval(text)",
        "os.system(name)",
        "archive.extractall(folder)",
        "subprocess.run(name, shell=True)",
    ],
)
def test_the_check_sees_each_of_them(line: str) -> None:
    assert len(faults(line)) == 1


def test_open_clip_is_told_to_load_weights_only() -> None:
    source = (ROOT / "stages/parts/teacher/models.py").read_text()
    given = [
        {k.arg: ast.unparse(k.value) for k in node.keywords} for name, node in calls(source) if "create_model" in name
    ]
    loading = [one for one in given if one.get("require_pretrained") == "True"]
    assert loading and all(one.get("weights_only") == "True" for one in loading)


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:: (\w+))?`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 10
    missing = [
        f"{file}: {test}"
        for file, test in named
        if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text())
    ]
    assert missing == []


def test_every_case_that_the_page_names_is_in_the_bad_input_table() -> None:
    from tests.pipeline.bad_input_cases import CASES

    named = re.findall(r"case “([^”]+)”", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 10 and [case for case in named if case not in CASES] == []
