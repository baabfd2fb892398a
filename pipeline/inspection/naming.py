"""Does the teacher know these classes at all? Cached tokens of labelled regions, each called by the nearest seen name.

Where it does not, no training helps, and it is known minutes after `extract` instead of hours after `train`. Numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cache.store import Artifact
from cache.summary import SHARDS, even
from pipeline.invocation import Invocation
from stages.parts.scoring.quality import zero_shot_accuracy, zero_shot_report

POOR, GOOD = 15.0, 40.0
"""Least share of the way from chance to certainty, in per cent, that is not poor, and that is good."""


def naming(tokens: Artifact, text: Artifact, seen: Sequence[str]) -> dict[str, Any] | None:
    """How often seen regions are named right, in per cent: `top1` of all, `mean` over classes, `chance`; and `above`,
    the lesser of the two as a share of the way from chance to certainty. None where there is nothing to name.

    Of a large cache evenly spaced shards are read.
    """
    shards = even(tokens.committed(), SHARDS)
    if not shards or not text.committed() or len(seen) < 2:
        return None
    parts = [tokens.read(shard, ["local", "local_region"]) for shard in shards]
    local, region = (np.concatenate([part[name] for part in parts]) for name in ("local", "local_region"))
    if not len(local):
        return None
    found = zero_shot_accuracy(local, region, text.read(0, ["seen"])["seen"])
    report = zero_shot_report(found, seen)
    shown = found.count > 0
    mean = 100 * float((found.top1[shown] / found.count[shown]).mean())
    chance = report["chance"]
    above = 100 * (min(report["top1"], mean) - chance) / (100 - chance)
    return {
        "regions": report["regions"],
        "top1": report["top1"],
        "mean": round(mean, 2),
        "chance": chance,
        "above": round(above, 2),
        "classes": {c["name"]: c["top1"] for c in report["classes"]},
    }


def verdict(typed: Invocation, n: dict[str, Any]) -> tuple[str, str]:
    """(good, fair or POOR, line): whether the teacher knows the classes, which decides what training can reach."""
    text = (
        f"naming: {n['regions']} seen regions, called by the nearest of {len(n['classes'])} seen names: right in "
        f"{n['top1']:.1f} % (mean over classes {n['mean']:.1f} %, chance {n['chance']:.1f} %)"
    )
    if n["above"] >= GOOD:
        return "good", text
    known = [(share, name) for name, share in n["classes"].items() if share is not None]
    worst = ", ".join(name for _, name in sorted(known)[:3])
    way = f"worst: {worst}; see what they are taken for: {typed.command('inspect', 'quality')}"
    if n["above"] >= POOR:
        return "fair", f"{text}; {way}"
    return "POOR", (
        f"{text}: this teacher hardly knows these classes, and no training makes up for it. Check that names and mask "
        f"values belong together (`clip2seg data check`), then try names as a photo's caption would say them, "
        f"teacher.prompts, or another teacher; {way}"
    )
