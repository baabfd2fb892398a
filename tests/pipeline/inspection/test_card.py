"""Claims about `inspect PRESET card`: the figures are right, a fault is named first with the setting to change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.inspection import card
from pipeline.inspection.opened import Inspection
from pipeline.inspection.questions import ask
from pipeline.invocation import Invocation
from pipeline.machine import Machine
from pipeline.run import mine_concepts
from tests.pipeline.inspection.test_naming import Stored

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[3]
TYPED = Invocation("farm", "artifacts", "")


def stored(local: np.ndarray, region: list[int], per_view: int) -> Any:
    offsets = np.arange(0, len(region) + 1, per_view)
    return Stored(local=local, local_region=np.array(region, np.uint8), local_offsets=offsets)


def test_a_region_is_compared_with_those_of_other_photos_alone() -> None:
    eye = np.eye(4, dtype=np.float32)
    apart = card.neighbours(stored(eye[[0, 1] * 8], [0, 1] * 8, 2), ["a", "b", "never"])
    assert apart is not None and (apart["mean"], apart["chance"], apart["above"]) == (100.0, 50.0, 100.0)
    assert set(apart["classes"]) == {"a", "b"}
    # Two regions of a photo are alike, and each class is in one photo: within the photo all would be right.
    own = card.neighbours(stored(eye[[0, 0, 1, 1]], [0, 0, 1, 1], 2), ["a", "b"])
    assert own is not None and own["mean"] == 0.0
    assert card.neighbours(stored(eye[[0, 0]], [0, 0], 1), ["a", "b"]) is None


def test_tokens_that_tell_classes_apart_without_their_names_blame_the_names() -> None:
    good = {"mean": 90.0, "chance": 10.0, "above": 89.0, "classes": {"a": 90.0}}
    word, line = card._tokens_verdict(good, {"above": 3.0})
    assert word == "good" and "it is the names" in line
    word, line = card._tokens_verdict(good | {"above": 2.0}, {"above": 3.0})
    assert word == "POOR" and "another teacher.model" in line and "worst: a" in line


def test_a_threshold_that_cuts_hidden_classes_better_is_named() -> None:
    rows = {t: {"iou": iou, "purity": 1.0, "recall": 1.0, "images": 9} for t, iou in (("0.7", 60.0), ("0.8", 50.0))}
    word, line = card._hidden_verdict(TYPED, {"now": 0.8, "views": 40, "rows": rows})
    assert word == "fair" and "mine-latent.merge_threshold=0.7 cuts them better (IoU 60.0)" in line
    rows["0.7"]["iou"] = 52.0
    assert card._hidden_verdict(TYPED, {"now": 0.8, "views": 40, "rows": rows})[0] == "good"


def test_the_card_of_a_cache_says_what_is_wrong_first(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("distill.negatives=batch", "mine-concepts.count=2", "mine-latent.merge_threshold=0.91234567")
    tiny.run("mine-latent", *settings, artifacts=tmp_path)
    plan = tiny.plan(*settings, artifacts=tmp_path)
    mine_concepts(plan, Machine("cpu", 0))
    text, found = ask(Inspection(plan, Machine("cpu", 0)), "card", "", count=-1, full_labels=False, vocabulary="")
    concept = plan.artifact("membership").load(["concept"])["concept"]
    same = (concept[:, None] == concept).mean()  # of all pairs, a region with itself too
    assert found["same concept"] == {"share": round(100 * float(same), 2), "concepts": 2}
    assert "distill.same_concept" in text and set(found["hidden classes"]["rows"]) == {"0.8123", "0.9123"}
    words = [line.split()[0] for line in text.splitlines()[2:] if line.split()[:1] and line.split()[0] in card.ORDER]
    assert words == sorted(words, key=card.ORDER.index) and words[0] != "good"
    first = next(line for line in text.splitlines()[2:])
    assert text.splitlines()[0] == f"tiny, before training: change first: {first[6:].partition(':')[0]}"


def test_the_card_loads_no_torch(tiny: Tiny) -> None:
    tiny.run("mine-latent")
    code = (
        "import sys\nfrom pipeline.cli import app\n"
        f"try:\n    app(['inspect', {str(tiny.preset)!r}, 'card', '--artifacts', {str(tiny.artifacts)!r}])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print('loaded', *(m for m in ('torch', 'open_clip', 'matplotlib', 'scipy') if m in sys.modules))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "before training" in done.stdout and done.stdout.splitlines()[-1] == "loaded"
