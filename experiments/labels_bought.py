"""What labels are worth by who chose the photos: lists of photos to label, and the study that trains on each list.

    python experiments/labels_bought.py demo --budgets 10 30 100 --seeds 3 --out labels
    python experiments/study.py labels/study.toml --out results

At first no photo has a label (`data.label_share = 0`): they are extracted, mined and grouped into concepts as they are.
Then a budget of photos is chosen three ways, which know nothing but that cache:

- suggested: as `clip2seg data suggest` does before there is a student: concepts that no chosen photo shows, rare first;
- random: drawn anew for each seed;
- uncertain: the photos whose latent regions the teacher is least sure of: the smallest mean gap between the cosines of
  a region's two nearest seen names.

A list goes beside the data set's own lists, under a name that begins with `bought-`; the study reads it as
`data.labelled`. Its rows: each way at each budget, no label, and all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from cache.vectors import unit
from pipeline import run
from pipeline.config import load_config, preset_name
from pipeline.inspection.suggest import choose, photos_shown
from pipeline.machine import Machine
from pipeline.plan import Plan
from stages.parts.data.layouts import LAYOUTS

SEEDED = "{seed}"
"""Stands for the seed in a setting of a study's row."""


def unlabelled(preset: str, settings: Sequence[str], artifacts: str, data: str, machine: Machine) -> Plan:
    """The plan of a data set without any label, with its cache and concepts made."""
    config = load_config(preset, [*settings, "data.label_share=0"])
    plan = Plan(config, preset_name(preset), artifacts, data)
    run.extract(plan, machine)
    run.mine_latent(plan, machine)
    run.mine_concepts(plan, machine)
    return plan


def orders(plan: Plan, seeds: int, most: int) -> dict[str, list[str]]:
    """Way -> the ids of `most` photos at most, in the order in which they are bought; `random` for each seed."""
    latent, members = plan.artifact("latent"), plan.artifact("membership")
    arrays = latent.load(["local", "local_offsets"])
    views = np.repeat(np.arange(len(latent.ids())), np.diff(arrays["local_offsets"]))
    several, concept = plan.config.views.count > 1, members.load(["concept"])["concept"]
    photos, owner, shown = photos_shown(latent.ids(), several, views, concept)
    gaps = gap(arrays["local"], plan.artifact("text").read(0)["seen"])
    regions = np.bincount(owner[views], minlength=len(photos))
    mean = np.bincount(owner[views], weights=gaps, minlength=len(photos)) / np.maximum(regions, 1)
    mean[regions == 0] = np.inf  # nothing to be unsure of
    found = {
        "suggested": [i for i, _, _ in choose(shown, most, np.zeros(len(photos)))],
        "uncertain": np.argsort(mean, kind="stable")[:most].tolist(),
    }
    for seed in range(seeds):
        found[f"random-{seed}"] = np.random.default_rng(seed).permutation(len(photos))[:most].tolist()
    return {way: [photos[i] for i in order] for way, order in found.items()}


def gap(tokens: np.ndarray, text: np.ndarray) -> np.ndarray:
    """How much nearer the nearest name is than the next: tokens [p, D], names [K, D], K > 1 -> cosines [p]."""
    cosine = np.sort(unit(tokens) @ unit(text).T, axis=1)
    found: np.ndarray = cosine[:, -1] - cosine[:, -2]
    return found


def rows(budgets: Sequence[int], bought: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The rows of the study with their settings; `bought`: settings of those with bought labels."""
    yield "no label", ["data.label_share=0"]
    for budget in budgets:
        for way, name in (("suggested", "suggested"), ("random", f"random-{SEEDED}"), ("uncertain", "uncertain")):
            yield f"{budget} {way}", [f"data.labelled=bought-{name}-{budget}", *bought]
    yield "all labels", []


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--budgets", type=int, nargs="+", default=[10, 30, 100], help="photos bought")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("labels"), help="folder of study.toml")
    parser.add_argument("--artifacts", default="artifacts", help="folder of caches and runs")
    parser.add_argument("--data", default="", help="the data set's folder")
    parser.add_argument("--set", action="append", default=[], help="a setting: table.key=value")
    parser.add_argument("--bought-set", action="append", default=[], help="the same, for rows with bought labels only")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args(argv)
    plan = unlabelled(args.preset, args.set, args.artifacts, args.data, Machine(args.device, 0))
    root = Path(plan.data_config.root)
    places = [text for text in LAYOUTS[plan.data_config.layout].lists if "{list}" in text]
    list_file = next((text for text in places if (root / text).parent.is_dir()), places[0])
    for way, ids in orders(plan, args.seeds, max(args.budgets)).items():
        for budget in args.budgets:
            at = root / list_file.format(list=f"bought-{way}-{budget}")
            at.write_text("".join(f"{i}\n" for i in ids[:budget]), encoding="utf-8")
    args.out.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = dict(rows(args.budgets, args.bought_set))
    lines = [
        f"[world.{json.dumps(plan.name)}]",
        f"preset = {json.dumps(args.preset)}",
        f"set = {json.dumps(args.set)}",
        "",
    ]
    lines += ["[[round]]", 'name = "labels bought"', f"seeds = {list(range(args.seeds))}", "", "[round.rows]"]
    lines += [f"{json.dumps(name)} = {json.dumps(settings)}" for name, settings in told.items()]
    (args.out / "study.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.out / 'study.toml'}: {len(told)} rows, {args.seeds} seeds; lists like {at}")


if __name__ == "__main__":
    main()
