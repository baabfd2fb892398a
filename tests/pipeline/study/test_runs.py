from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from pipeline.study.runs import compare, compare_text, find_runs, resolve_run, runs_json, runs_text

if TYPE_CHECKING:
    from tests.conftest import Tiny


@pytest.fixture(scope="module")
def two(tiny: Tiny) -> str:
    """Artifacts with an evaluated run and another that is only trained."""
    tiny.run("eval")
    tiny.run("train", "train.lr=0.002")
    return str(tiny.artifacts)


def test_runs_are_listed_with_their_scores(two: str, tiny: Tiny) -> None:
    runs = find_runs(two, "tiny")
    found = {run["run"]: run for run in runs_json(runs)}
    name = f"tiny/{tiny.plan().address('train').prefix.rsplit('/', 1)[-1]}"
    report = tiny.plan().address("eval").get_mark("report.json")
    assert found[name]["state"] == "finished" and found[name]["evaluations"][0]["uIoU"] == report["uIoU"]
    assert found[name]["report"].endswith("report.html")
    text = runs_text(runs)
    assert name in text and "fpn+tu-mobilenetv3_small_050" in text
    head, *rows = text.splitlines()
    assert head.split()[-7:] == ["hIoU", "sIoU", "uIoU", "pixel", "acc.", "differs", "in"]
    assert all("train.lr=0.001" in row for row in rows if name in row) and "train.lr=0.002" in text
    assert found[name]["date"] and all(found[run.name]["date"] in text for run in runs)


def test_a_comparison_shows_the_settings_that_differ_and_no_others(two: str, tiny: Tiny) -> None:
    plans = [tiny.plan(), tiny.plan("train.lr=0.002")]
    names = [plan.address("train").prefix.rsplit("/", 1)[-1] for plan in plans]
    found = compare(find_runs(two), names)
    assert found["settings"] == {"train.lr": [0.001, 0.002]}
    assert found["scores"]["images"] == [6, None]
    assert "train.lr" in compare_text(found)


def test_a_name_that_fits_no_run_or_several_is_refused(two: str) -> None:
    runs = find_runs(two)
    with pytest.raises(InputError, match="fits 0 runs"):
        compare(runs, ["train-zzz", "train-zzz"])
    with pytest.raises(InputError, match=f"fits {len(runs)} runs"):
        compare(runs, ["train-", "train-"])
    with pytest.raises(InputError, match="two runs or more"):
        compare(runs, ["train-"])


def test_a_run_is_found_by_path_preset_or_listed_name(two: str, tiny: Tiny) -> None:
    address = str(tiny.plan().address("train"))
    assert resolve_run(address, two, "") == address
    assert resolve_run(str(tiny.preset), two, "") == address
    assert resolve_run(f"tiny/{Path(address).name}", two, "") == address
    with pytest.raises(InputError, match="no such folder, student file or preset"):
        resolve_run("nothing", two, "")


def test_looking_for_runs_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_runs(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert runs_text(find_runs(str(tmp_path))).startswith("no run yet")
