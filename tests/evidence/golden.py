"""Digests of everything that a small run of the demo computes, to show that a change of code changes no number.

    python tests/evidence/golden.py FILE.json        # run the checkout this stands in, write its digests
    python tests/evidence/golden.py A.json B.json    # compare two such files; exit code 1 where they differ

Numbers of two machines may differ in their last bits, so both files are made on one: the first in a worktree of the
commit before (`git worktree add`, this script copied there), the second in the tree of the change. One thread,
float32, workers 0. Reads the artifacts with zarr alone, so that it runs before and after any change of our own code.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("demo-world.train=96", "demo-world.val=24", "train.iterations=50", "train.warmup=5", "eval.min_pixels=1000")
STAGES = ("extract", "mine-latent", "train", "eval")


def record() -> dict[str, Any]:
    """Runs the four stages on a small demo world; array and report digests by name."""
    with tempfile.TemporaryDirectory() as folder:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main; main()"
        for stage in STAGES:
            chosen = [word for setting in SMALL for word in ("--set", setting)]
            command = [sys.executable, "-c", code, stage, "demo", "--device", "cpu", "--workers", "0", *chosen]
            subprocess.run(
                [*command, "--artifacts", folder],
                check=True,
                stdout=sys.stderr,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )
        return digests(Path(folder) / "demo")


def digests(run: Path) -> dict[str, Any]:
    """sha256 of each array of the cache, the loss curve as it was written, weights and the evaluation report."""
    import zarr

    found: dict[str, Any] = {}
    for kind in ("tokens", "dense", "latent", "text"):
        (folder,) = run.glob(f"{kind}-*.zarr")
        for array in sorted(folder.rglob("zarr.json")):
            about = json.loads(array.read_text())
            if about["node_type"] != "array":
                continue
            values = zarr.open_array(str(array.parent), mode="r")[...]
            name = f"{kind}/{array.parent.relative_to(folder)}"
            found[name] = hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()
    (train,) = run.glob("train-*")
    found["curves"] = [json.loads(line) for line in (train / "curves.jsonl").read_text().splitlines()]
    found["weights"] = weights(train / "student.safetensors")
    (scored,) = run.glob("eval-*")
    report = json.loads((scored / "report.json").read_text())
    found["report"] = {k: v for k, v in report.items() if k in ("hIoU", "sIoU", "uIoU", "per_class", "pixel_accuracy")}
    assert {"hIoU", "sIoU", "uIoU"} <= set(found["report"]), sorted(report)
    found["confusion"] = json.loads((scored / "confusion.json").read_text())
    return found


def weights(file: Path) -> str:
    """sha256 over the tensors of a student, names in order."""
    from safetensors.numpy import load_file

    tensors, total = load_file(file), hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].tobytes())
    return total.hexdigest()


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names whose values differ."""
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]


def main() -> int:
    files = [Path(word) for word in sys.argv[1:]]
    if len(files) == 2:
        first, second = (json.loads(file.read_text()) for file in files)
        different = compare(first, second)
        print(f"{len(first)} results, {len(different)} differ: {', '.join(different) or 'bit-identical'}")
        return bool(different)
    (file,) = files
    file.write_text(json.dumps(record(), indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
