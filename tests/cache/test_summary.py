"""Claims about the summary: its figures equal plain counting, and it sees what is wrong with tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from cache.summary import summarise

SEEN = ("cat", "dog", "cow")


def write(at: Path, whole: np.ndarray, *, local: np.ndarray | None = None, finish: bool = True) -> Artifact:
    """An artifact of one shard: one region of class 1 in each view."""
    n = len(whole)
    artifact = Artifact(Location(str(at)), "tokens").create(
        {"stage": "extract", "dtype": "float32", "seen": list("abcdefgh")}
    )
    arrays = {
        "global": whole.astype(np.float32),
        "local": np.ones((n, whole.shape[1]), np.float32) if local is None else local.astype(np.float32),
        "local_region": np.ones(n, np.uint8),
        "local_offsets": np.arange(n + 1),
        "image_size": np.ones((n, 2), np.int32),
        "view_seed": np.zeros(n, np.uint64),
        "labels_crc": np.zeros(n, np.uint32),
        "photo_crc": np.zeros(n, np.uint32),
    }
    artifact.write(0, [f"v{i}" for i in range(n)], arrays, {"bad": ["broken.jpg: not a picture"]})
    if finish:
        artifact.finish({}, 1)
    return artifact


def test_norms_and_mean_cosine_are_those_of_plain_arithmetic(tmp_path: Path) -> None:
    found = summarise({"tokens": write(tmp_path / "t", np.array([[3.0, 4], [0, 10]]))}, 3, SEEN)
    whole = found["norms"]["global"]
    assert (whole["count"], whole["mean"], whole["sd"], whole["least"], whole["greatest"]) == (2, 7.5, 2.5, 5, 10)
    # Unit tokens (0.6, 0.8), (0, 1): cosines 1, 0.8, 0.8, 1.
    assert whole["mean_cosine"] == pytest.approx(0.9)
    assert found["views"] == {"wanted": 3, "stored": 2, "read": 2}
    assert found["regions"]["per_class"] == {"cat": 0, "dog": 2, "cow": 0}
    assert found["bad"] == ["broken.jpg: not a picture"]
    assert found["tiers"]["tokens"]["state"] == "complete"
    assert found["tiers"]["tokens"]["finished"].endswith(" UTC")


def test_zero_and_broken_tokens_are_counted(tmp_path: Path) -> None:
    local = np.array([[np.nan, 1.0], [0.0, 0.0], [np.inf, 0.0], [1.0, 1.0]])
    found = summarise({"tokens": write(tmp_path / "t", np.eye(4, 2) + 1, local=local)}, 4, SEEN)["norms"]["local"]
    assert (found["not_finite"], found["zero"]) == (2, 1)
    assert (found["mean"], found["mean_cosine"]) == (pytest.approx(2**0.5 / 2, abs=1e-4), pytest.approx(1))


def test_exact_copies_are_named_together(tmp_path: Path) -> None:
    whole = np.array([[1.0, 2], [3, 4], [1, 2], [5, 6], [1, 2]])
    assert summarise({"tokens": write(tmp_path / "t", whole)}, 5, SEEN)["copies"] == [["v0", "v2", "v4"]]


def test_an_unfinished_and_a_missing_tier_say_so(tmp_path: Path) -> None:
    tokens = write(tmp_path / "t", np.eye(2), finish=False)
    empty = Artifact(Location(str(tmp_path / "d")), "dense").create(
        {"stage": "extract", "dtype": "float32", "seen": list("abcdefgh")}
    )
    found = summarise({"tokens": tokens, "dense": empty}, 2, SEEN)
    assert {kind: t["state"] for kind, t in found["tiers"].items()} == {"tokens": "begun", "dense": "missing"}
    assert "dense" not in found["norms"]


def test_no_cache_at_all_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing there; run the stage that writes it"):
        summarise({"tokens": Artifact(Location(str(tmp_path / "none")), "tokens")}, 2, SEEN)
