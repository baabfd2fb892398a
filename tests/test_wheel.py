"""The built wheel in a fresh environment: its own files alone, run from another folder, without a network."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHORT = [
    f"--set={setting}"
    for setting in (
        *("demo-world.train=16", "demo-world.val=4", "train.iterations=4", "train.warmup=1", "train.batch=4"),
        *("eval.pictures=1", "views.size=64"),
    )
]


def run(*command: str | Path, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, and this interpreter's packages for what the wheel depends on."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs setuptools >= 77 to build the wheel; `pip install -e '.[dev]'` brings it")
    root = tmp_path_factory.mktemp("wheel")
    tree = root / "tree"
    for name in ("clip2seg", "pipeline", "stages", "cache"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", root / "dist", tree, cwd=root)
    (wheel,) = (root / "dist").glob("*.whl")
    venv.create(root / "venv", with_pip=False)
    python = root / "venv/bin/python"
    (packages,) = (root / "venv/lib").glob("python*/site-packages")
    # Listed paths come after the environment's own; .pth files in them (an editable install) are not followed.
    others = [path for path in sys.path if path.endswith("site-packages") and path not in site.PREFIXES]
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    run(*pip, f"--python={python}", "install", "--quiet", "--no-deps", wheel, cwd=root)
    return root / "venv/bin"


def test_the_wheel_brings_its_data_and_its_types(installed: Path, tmp_path: Path) -> None:
    code = (
        "import clip2seg, pathlib, pipeline.config as c, json; from stages.parts.data.vocabulary import prompt_set;"
        "home = pathlib.Path(clip2seg.__file__).parents[1]; c.load_config('voc'); prompt_set('single');"
        "print(json.dumps([str(home), c.shipped(), [p for p in ('clip2seg', 'pipeline', 'stages', 'cache') "
        "if (home / p / 'py.typed').is_file()], clip2seg.__version__]))"
    )
    home, shipped, typed, ours = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    assert home.startswith(str(installed.parent)) and len(typed) == 4
    assert shipped == sorted(f.stem for f in (ROOT / "pipeline/presets").glob("*.toml"))
    assert run(installed / "clip2seg", "--version", cwd=tmp_path).split() == ["clip2seg", ours]


@pytest.mark.slow
def test_a_short_demo_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "clip2seg", "demo", "--workers=0", "--device=cpu", *SHORT, "--json", cwd=tmp_path)
    assert json.loads(printed.splitlines()[-1])["report"]["images"] == 4
    assert [f.name for f in tmp_path.iterdir()] == ["artifacts"]
    code = (
        "import clip2seg, pathlib; at = pathlib.Path('artifacts/demo'); cache = clip2seg.open_cache(at);"
        "run = next(p for p in at.glob('train-*')); photo = next(at.rglob('*.jpg'));"
        "print(len(cache.ids()), clip2seg.load_student(run, device='cpu').segment(photo).labels.ndim)"
    )
    assert run(installed / "python", "-c", code, cwd=tmp_path).split() == ["16", "2"]
