"""The lists of photos to label, and the study that trains on them, on the tiny world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.labels_bought import gap, main
from experiments.rounds import Study

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_the_gap_is_small_where_two_names_are_as_near() -> None:
    names = np.eye(3, dtype=np.float32)
    found = gap(np.array([[1, 0, 0], [1, 1, 0], [3, 1, 0]], np.float32), names)
    assert found[1] < 1e-6 < found[2] < found[0] == 1.0


def test_three_ways_buy_different_photos_and_the_study_trains_on_each_list(fresh_tiny: Tiny) -> None:
    lists = Path(fresh_tiny.plan().data_config.root) / "ImageSets"
    for file in (lists / "Segmentation").iterdir():  # where VOC's layout finds them too
        file.rename(lists / file.name)
    (lists / "Segmentation").rmdir()
    out, common = fresh_tiny.root / "labels", ["--artifacts", str(fresh_tiny.artifacts), "--device", "cpu"]
    main([str(fresh_tiny.preset), "--budgets", "3", "6", "--seeds", "2", "--out", str(out), *common])
    study = Study.read(out / "study.toml", [])
    jobs = {(job.row, job.seed): job for job in study.jobs(0)}
    assert {row for row, _ in jobs} == {
        "no label", "all labels", *(f"{n} {way}" for n in (3, 6) for way in ("suggested", "random", "uncertain"))
    }  # fmt: skip
    assert "data.labelled=bought-random-1-6" in jobs["6 random", 1].settings
    bought = {}
    for (row, seed), job in jobs.items():
        data = fresh_tiny.plan(*job.settings).train_data  # the setting is what the study trains with
        bought[row, seed] = {record.id for record in data.records} - data.unlabelled
        wanted = {"no": 0, "all": len(data)}
        assert len(bought[row, seed]) == wanted.get(row.split()[0], row[0].isdigit() and int(row[0]))
    assert bought["3 suggested", 0] < bought["6 suggested", 0] and bought["6 random", 0] != bought["6 random", 1]
