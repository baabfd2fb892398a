"""docs/cache-format.md: its table is the code's, its reader reads, and its words about seals and names are true."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cache.store import MARKS, Artifact
from pipeline.reference import cache_tables

if TYPE_CHECKING:
    from tests.conftest import Tiny

PAGE = (Path(__file__).resolve().parents[2] / "docs/cache-format.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokens(tiny: Tiny) -> Artifact:
    tiny.run("mine-latent")
    return tiny.plan().artifact("tokens")


def folder(artifact: Artifact) -> Path:
    return Path(str(artifact))


def test_the_table_is_the_one_that_writer_and_reader_use() -> None:
    found = re.search(r"<!-- arrays -->\n(.*?)<!-- end arrays -->", PAGE, re.DOTALL)
    assert found and found[1] == cache_tables(), "put in what `python -m pipeline.reference cache` prints"


def test_the_reader_reads_what_the_store_reads_with_zarr_and_numpy_alone(tokens: Artifact, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE)) == {
        "json", "sys", "pathlib", "numpy", "zarr",
    }  # fmt: skip
    (tmp_path / "reader.py").write_text(script)
    env = {"PATH": os.environ["PATH"]}  # without this repository on the path
    done = subprocess.run(
        [sys.executable, "reader.py", str(folder(tokens))],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    arrays, seen = tokens.load(["global", "local_region", "local_offsets"]), tokens.provenance()["seen"]
    lengths = np.linalg.norm(arrays["global"].astype(np.float32), axis=1)
    starts = arrays["local_offsets"]
    wanted = []
    for i, view in enumerate(tokens.ids()):
        names = [seen[c] for c in arrays["local_region"][starts[i] : starts[i + 1]]]
        wanted.append(" ".join([view, f"{lengths[i]:.4f}", f"({len(names)}, 32)", *names]))
    assert done.stdout.splitlines() == wanted and len(wanted) == 12 and any("stripes" in line for line in wanted)


def test_every_object_is_on_the_page_and_in_its_commit_mark(tokens: Artifact) -> None:
    root = folder(tokens)
    files = {str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()}
    committed = set()
    for mark in root.glob("shards/*/commit.json"):
        for name, (size, digest) in json.loads(mark.read_text())["objects"].items():
            data = (mark.parent / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest)
            committed.add(f"shards/{mark.parent.name}/{name}")
        committed.add(f"shards/{mark.parent.name}/commit.json")
    assert files == committed | {"zarr.json", "shards/zarr.json", "complete.json"}
    assert all(name in PAGE for name in MARKS)


def test_a_seal_is_what_the_page_says(tokens: Artifact) -> None:
    for name in ("zarr.json", "complete.json", "shards/00000/commit.json"):
        mark = json.loads((folder(tokens) / name).read_text())
        seal = (mark.get("attributes") or mark).pop("seal")
        assert seal == hashlib.sha256(json.dumps(mark, indent=1, sort_keys=True).encode()).hexdigest()
        keys = set(mark.get("attributes", mark))
        (row,) = re.findall(rf"^\| `{Path(name).name}` \| (.*) \|$", PAGE, re.MULTILINE)
        assert keys <= set(re.findall(r"`(\w+)`", row)), name


def test_a_fingerprint_is_what_the_page_says(tokens: Artifact) -> None:
    about = tokens.provenance()
    text = json.dumps(about["ingredients"], sort_keys=True, separators=(",", ":"))
    name = hashlib.sha256(text.encode()).hexdigest()[:8]
    assert folder(tokens).name == f"tokens-{name}.zarr" and about["fingerprint"] == name
