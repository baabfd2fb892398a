"""The study of recipes asks for the same rows as `inspect recipes`, and their ranks are compared as they should be."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.inspection.recipes import OWN, SECOND
from stages.parts.teacher.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("study", ["recipes", "ranking"])
def test_every_row_loads_and_has_a_name_that_inspect_recipes_prints(study: str) -> None:
    refinements = {"", *OWN, *SECOND, "k-means by both"}
    read = tomllib.loads((ROOT / f"experiments/studies/{study}.toml").read_text(encoding="utf-8"))
    for told in read["round"]:
        (name,) = told.get("worlds", read["world"])
        world = read["world"][name]
        preset = world["preset"]
        at = str(ROOT / "experiments/studies" / preset) if preset.endswith(".toml") else preset
        for row, settings in told["rows"].items():
            title, _, threshold = row.partition(" at ")
            recipe, _, refinement = title.partition(", ")
            config = load_config(at, [*world["set"], *settings])
            assert not threshold or config.mine_latent.merge_threshold == float(threshold)
            assert recipe in (config.teacher.recipe, "feature_map") and recipe in {*RECIPES, "feature_map"}
            assert refinement in refinements
            expected = {**OWN, **SECOND}.get(refinement)
            assert expected is None or config.refine == expected, row
            assert (config.affinity.kmeans_weight > 0) == (refinement == "k-means by both")


def test_ranks_that_agree_give_one_and_reversed_ones_minus_one(tmp_path: Path) -> None:
    rows = [
        {
            "name": name,
            "dense": 10 - i,
            "dense_hIoU": None,
            "named": None if i == 3 else i,
            "best": {"iou": i, "purity": -i, "recall": i % 2},
            "thresholds": [{"threshold": 0.9, "iou": -i, "purity": i, "recall": 0}],
        }
        for i, name in enumerate("abcd")
    ]
    runs = [
        {"world": world, "row": name, "seed": seed, "uIoU": (i + 0.1 * seed) * sign, "hIoU": 1.0, "sIoU": 2.0}
        for world, sign in (("demo", 1), ("photos", -1))
        for i, name in enumerate("abcde")
        for seed in (0, 1)
    ]
    (tmp_path / "a.json").write_text("dense map   IoU\na   3\n" + json.dumps({"rows": rows}) + "\n")
    (tmp_path / "b.json").write_text(json.dumps({"rows": runs}))
    code = [sys.executable, str(ROOT / "experiments/spearman.py"), str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    said = subprocess.run(code, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("iou     against uIoU: Spearman +1.00") and said[0].endswith("4 rows)")
    assert "Spearman -1.00" in said[1] and "Spearman -1.00" in said[3] and said[4].endswith("3 rows)")
    other = subprocess.run([*code, "--world", "photos"], capture_output=True, text=True, check=True).stdout
    assert other.startswith("iou     against uIoU: Spearman -1.00")
    shown = subprocess.run([*code, "--table", "--at", "0.9"], capture_output=True, text=True, check=True).stdout
    assert "| b | 9.0 | - | -1.0 | 1.0 | 0.0 | 1.0 ±0.0 / 2.0 ±0.0 / 1.1 ±0.1 | 2 |" in shown
    assert "iou     against uIoU: Spearman -1.00" in shown, "at that threshold, not at a row's best"
    for run in runs:
        run["row"] += " at 0.9"  # then what was mined at that threshold counts, not at a row's best
    (tmp_path / "b.json").write_text(json.dumps({"rows": runs}))
    fixed = subprocess.run(code, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "Spearman -1.00" in fixed[0] and "Spearman +1.00" in fixed[1]
