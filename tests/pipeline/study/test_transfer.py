"""`eval --on`: other images, other names, seen by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.study.transfer import matched

OTHER = """
[data]
layout = "voc"
root = "./data"
vocabulary = "classes.toml"
[teacher]
model = "local-dir:./teacher"
"""


@pytest.fixture
def other(fresh_tiny: Any) -> Path:
    """The tiny images under other names and another order: raw values 1..4 are Disc, sphere, cross, "strip-es"."""
    (fresh_tiny.data / "classes.toml").write_text(
        'classes = ["sphere", "Disc", "cross", "strip-es"]\nvalues = [2, 1, 4, 3]\nignore = [0, 255]\n'
        'unseen = ["Disc"]\n'
    )
    (fresh_tiny.root / "other.toml").write_text(OTHER)
    made: Path = fresh_tiny.root / "other.toml"
    return made


def score(tiny: Any, *more: str) -> tuple[int, dict[str, Any], str]:
    options = ["--artifacts", str(tiny.artifacts), "--device", "cpu", "--workers", "0", "--json"]
    result = CliRunner().invoke(app, ["eval", str(tiny.preset), *options, *more], catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.stdout


def test_seen_is_what_the_student_was_trained_on_by_name(tiny: Any, other: Path) -> None:
    tiny.run("eval")
    code, found, text = score(tiny, "--on", str(other))
    assert code == 0
    classes = {c["name"]: c for c in found["report"]["classes"]}
    assert {n: c["seen"] for n, c in classes.items()} == {
        "Disc": True,
        "strip-es": True,
        "sphere": False,
        "cross": False,
    }
    assert "2 of its 4 classes seen in training" in text and found["report"]["on"] == "other"
    counts = np.array(json.loads((Path(found["address"]) / "confusion.json").read_text())["counts"])
    assert counts.sum() == sum(c["pixels"] for c in classes.values()) > 1000
    # Again: nothing is computed, and the run's own evaluation is untouched by it.
    assert score(tiny, "--on", str(other))[1] == found
    assert tiny.run("eval")["report"].on == ""


def test_the_same_data_set_gives_the_scores_of_eval(tiny: Any) -> None:
    own = tiny.run("eval")["report"].model_dump(mode="json")
    found = score(tiny, "--on", str(tiny.preset))[1]["report"]
    assert [found[k] for k in ("hIoU", "sIoU", "uIoU", "classes")] == [
        own[k] for k in ("hIoU", "sIoU", "uIoU", "classes")
    ]


def test_a_data_set_without_one_trained_name_has_no_siou(tiny: Any, other: Path) -> None:
    tiny.run("eval")
    words = other.parent / "data" / "classes.toml"
    words.write_text(words.read_text().replace("Disc", "ball").replace("strip-es", "bars"))
    found = score(tiny, "--on", str(other))[1]["report"]
    assert found["sIoU"] is None and found["uIoU"] is not None and not any(c["seen"] for c in found["classes"])


def test_the_other_data_folder_can_be_named(tiny: Any, other: Path, tmp_path: Path) -> None:
    tiny.run("eval")
    moved = tmp_path / "moved"
    shutil.move(str(other.parent / "data"), moved)
    assert score(tiny, "--on", str(other), "--on-data", str(moved))[0] == 0


def test_names_match_whatever_their_case_and_blanks() -> None:
    assert matched(["potted plant", "TV-monitor", "bus"], ["pottedplant", "tvmonitor", "train"]) == {
        "potted plant",
        "TV-monitor",
    }


def test_the_other_background_is_scored_at_a_threshold_that_is_given(tiny: Any, other: Path) -> None:
    tiny.run("train")
    asked = ("--on", str(other), "--set", "eval.background=true")
    threshold = ("--set", "eval.background_threshold=0.4")
    refused = CliRunner().invoke(
        app, ["eval", str(tiny.preset), "--artifacts", str(tiny.artifacts), *asked, *threshold]
    )
    assert "vocabulary 'classes' has no mask value" in str(refused.exception)
    words = other.parent / "data/classes.toml"
    words.write_text(f"{words.read_text()}background = [0]\n")
    refused = CliRunner().invoke(app, ["eval", str(tiny.preset), "--artifacts", str(tiny.artifacts), *asked])
    assert "eval.background needs a threshold here" in str(refused.exception)
    code, found, text = score(tiny, *asked, *threshold)
    assert code == 0 and found["report"]["background"]["kept"] is None and "classes-5" in text


def test_the_other_background_needs_none_of_the_runs_own(tiny: Any, other: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny.data, own)
    (own / "classes.toml").write_text((own / "classes.toml").read_text().replace("background = [0]\n", ""))
    words = other.parent / "data/classes.toml"
    words.write_text(f"{words.read_text()}background = [0]\n")
    tiny.run("train", data=own)
    asked = ("--data", str(own), "--set", "eval.background=true", "--set", "eval.background_threshold=0.4")
    assert score(tiny, "--on", str(other), *asked)[0] == 0
    refused = CliRunner().invoke(app, ["eval", str(tiny.preset), "--artifacts", str(tiny.artifacts), *asked])
    assert "has no mask value" in str(refused.exception)
