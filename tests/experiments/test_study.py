"""The study script on the tiny world: rows and choices, a run from nothing, what is kept when time ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.decoded import remembered
from experiments.rounds import Study
from experiments.study import main
from pipeline.config import load_config

STUDY = """
set = ["eval.pictures=0"]
[world.one]
preset = "{preset}"
[world.two]
preset = "{preset}"
set = ["train.lr=2e-3"]
[[round]]
name = "first"
[round.rows]
base = []
[round.factors.beta]
"20" = ["pixel-loss.beta=20"]
"40" = ["pixel-loss.beta=40"]
[[round]]
name = "last"
from = ["first"]
worlds = ["one"]
seeds = [0, 1]
[round.rows]
full = ["latent-embedding.enabled=true"]
baseline = ["distill.loss=none", "latent-embedding.enabled=false"]
"""


@pytest.fixture
def file(tiny: Any, tmp_path: Path) -> Path:
    written = tmp_path / "study.toml"
    written.write_text(STUDY.format(preset=tiny.preset))
    return written


def scored(study: Study, row: str, world: str, h: float, seed: int = 0, round_: str = "first") -> None:
    study.rows.append({"round": round_, "row": row, "world": world, "seed": seed, "hIoU": h, "sIoU": h, "uIoU": h})


def test_runs_that_started_from_another_have_a_table_of_what_changed(file: Path) -> None:
    study = Study.read(file, [])
    scored(study, "base", "one", 10.0)
    assert "before" not in study.markdown()
    for seed, after in ((0, 20.0), (1, 22.0)):
        scored(study, "beta: 20", "one", 10.0, seed)
        study.rows[-1]["since"] = [
            {"name": "labelled before", "classes": ["a"], "before": 50.0, "after": after},
            {"name": "still unseen", "classes": ["b"], "before": 40.0, "after": None},
        ]
    page = study.markdown()
    assert "| one, mean IoU | labelled before | still unseen |" in page and "| before | 50.0 | 40.0 |" in page
    assert "| beta: 20 | 21.0 ±1.4 | - |" in page


def test_a_round_runs_every_row_in_every_world_seed_after_seed(file: Path) -> None:
    study = Study.read(file, ["train.batch=2"])
    assert [(j.row, j.world) for j in study.jobs(0)] == [
        (row, world) for row in ("base", "beta: 20", "beta: 40") for world in ("one", "two")
    ]
    assert study.jobs(0)[3].settings == ("eval.pictures=0", "train.batch=2", "train.lr=2e-3", "pixel-loss.beta=20",
                                         "train.seed=0")  # fmt: skip
    assert [(j.seed, j.row) for j in study.jobs(1)] == [(s, r) for s in (0, 1) for r in ("full", "baseline")]


def test_a_factors_best_option_is_chosen_where_it_beats_the_first_row(file: Path) -> None:
    study = Study.read(file, [])
    for row, one, two in (("base", 10.0, 20.0), ("beta: 20", 9.0, 23.0), ("beta: 40", 16.0, 13.0)):
        scored(study, row, "one", one)
        scored(study, row, "two", two)
    study.choose(study.rounds[0])
    assert study.chosen["first"]["settings"] == ["pixel-loss.beta=20"]  # +1 on average; 40 loses 0.5
    assert study.chosen["first"]["factors"]["beta"]["gains"] == {"20": 1.0, "40": -0.5}
    assert "pixel-loss.beta=20" in study.jobs(1)[0].settings
    study.choose({**study.rounds[0], "margin": 1.5})
    assert study.chosen["first"]["settings"] == []


def test_a_row_that_ran_in_one_world_is_compared_there_alone(file: Path) -> None:
    study = Study.read(file, [])
    scored(study, "base", "one", 10.0)
    scored(study, "base", "two", 50.0)
    scored(study, "beta: 40", "one", 12.0)
    study.choose(study.rounds[0])
    assert study.chosen["first"]["factors"]["beta"] == {"gains": {"20": None, "40": 2.0}, "chosen": "40"}


def test_the_table_has_mean_and_spread_of_the_seeds(file: Path) -> None:
    study = Study.read(file, [])
    scored(study, "full", "one", 10.0, 0, "last")
    scored(study, "full", "one", 12.0, 1, "last")
    assert "| full | 11.0 ±1.4 / 11.0 ±1.4 / 11.0 ±1.4 | 2 |" in study.markdown()
    assert "baseline" not in study.markdown()


def test_the_charts_show_what_has_run(file: Path, tmp_path: Path) -> None:
    study = Study.read(file, [])
    scored(study, "full", "one", 10.0, 0, "last")
    scored(study, "full", "one", 12.0, 1, "last")
    study.draw(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.svg")) == ["chart-last-one-dark.svg", "chart-last-one.svg"]
    text = (tmp_path / "chart-last-one.svg").read_text()
    assert "one, last" in text and "full" in text and text.count(">11.0<") == 3 and "baseline" not in text


def test_photos_from_memory_are_the_photos(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan()
    for data, which in ((plan.train_data, "seen"), (plan.val_data, "all")):
        for _ in range(2):  # decoded, then found
            kept = remembered(data, tmp_path)
            assert kept.ids == data.ids and kept.digest == data.digest
            for i in range(len(data)):
                assert np.array_equal(kept.image(i), data.image(i))
                assert np.array_equal(kept.labels(i, which), data.labels(i, which))
                assert np.array_equal(kept.labels(i, "seen"), data.labels(i, "seen"))
    with pytest.raises(ValueError, match="seen labels"):
        remembered(plan.train_data, tmp_path).labels(0, "all")


def test_every_setting_of_the_shipped_study_is_known() -> None:
    study = Study.read(Path(__file__).resolve().parents[2] / "experiments" / "studies" / "settings.toml", [])
    jobs = [job for number in range(len(study.rounds)) for job in study.jobs(number)]
    assert len({job.name for job in jobs}) == len(jobs) > 40
    for preset, settings in {(job.preset, job.settings) for job in jobs}:
        load_config(preset, settings)


@pytest.mark.slow
def test_a_study_runs_and_goes_on(file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text().replace('"40" = ["pixel-loss.beta=40"]', "").replace("[0, 1]", "[0]"))
    options = [str(file), "--out", str(tmp_path / "out"), "--artifacts", str(tmp_path / "artifacts"), "--device", "cpu",
               "--in-memory", "--teacher"]  # fmt: skip
    assert main(options) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert len(found["rows"]) == 2 * 2 + 2 and not found["failed"] and not found["left_out"]
    assert set(found["teachers"]) == {"one", "two"}
    assert all(0 <= row["hIoU"] <= 100 and row["iterations"] == 6 for row in found["rows"])
    assert main(options) == 0  # again: nothing is trained
    again = json.loads((tmp_path / "out/results.json").read_text())
    assert all(row["already"] for row in again["rows"])
    assert [row["hIoU"] for row in again["rows"]] == [row["hIoU"] for row in found["rows"]]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_of_a_study_that_is_killed_ends_too() -> None:
    code = """
import multiprocessing, time
from experiments.crew import _end_with_parent
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=_end_with_parent)
    child.start()
    print(child.pid, flush=True)
    time.sleep(600)
"""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 60
    while lives(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not lives(child)


def lives(process: int) -> bool:
    """Whether a process is there and has not ended; what nobody asked after yet counts as ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_is_begun_that_would_not_end_in_time(file: Path, tmp_path: Path) -> None:
    options = [str(file), "--out", str(tmp_path / "out"), "--artifacts", str(tmp_path / "artifacts"), "--device", "cpu"]
    main([*options, "--budget", "1", "--seconds-per-iteration", "1"])
    cut = json.loads((tmp_path / "out/results.json").read_text())
    assert len(cut["left_out"]) == 6 + 4 and not cut["rows"] and not cut["failed"]
