"""A study as its TOML file says it: worlds, rounds, rows; which option a round chooses, and the tables of results."""

from __future__ import annotations

import json
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.parts.drawing.bars import Score, score_bars

SCORES = ("hIoU", "sIoU", "uIoU")


@dataclass(frozen=True)
class Job:
    """One run: a row of a round in a world with a seed; `settings` is all that is said to the preset."""

    round: str
    world: str
    row: str
    seed: int
    preset: str
    settings: tuple[str, ...]
    curve: bool = False
    """Whether the curve of hIoU over the seen bias is wanted too."""

    @property
    def name(self) -> str:
        return f"{self.round}: {self.row} [{self.world}, seed {self.seed}]"


@dataclass
class Study:
    """What the TOML file says, and what is known so far."""

    worlds: dict[str, dict[str, Any]]
    rounds: list[dict[str, Any]]
    common: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    teachers: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path, common: Sequence[str]) -> Study:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
        worlds = told.get("world", {})
        for world in worlds.values():
            if (file.parent / world["preset"]).is_file():
                world["preset"] = str(file.parent / world["preset"])
        return cls(worlds, told.get("round", []), [*told.get("set", []), *common])

    def jobs(self, number: int) -> list[Job]:
        """The runs of a round, seed after seed, so that a round cut short has whole rows."""
        told = self.rounds[number]
        start = [s for name in told.get("from", []) for s in self.chosen.get(name, {}).get("settings", [])]
        rows = self.round_rows(told)
        return [
            Job(
                told["name"],
                world,
                row,
                seed,
                self.worlds[world]["preset"],
                (
                    *self.common,
                    *self.worlds[world].get("set", []),
                    *told.get("set", []),
                    *start,
                    *(setting.replace("{seed}", str(seed)) for setting in settings),
                    f"train.seed={seed}",
                ),
                told.get("curve", False),
            )
            for seed in told.get("seeds", [0])
            for row, settings in rows.items()
            for world in told.get("worlds", list(self.worlds))
        ]

    @staticmethod
    def round_rows(told: Mapping[str, Any]) -> dict[str, list[str]]:
        """Rows by name; each option of a factor is a row too."""
        rows = dict(told.get("rows", {}))
        for factor, options in told.get("factors", {}).items():
            rows |= {f"{factor}: {option}": settings for option, settings in options.items()}
        return rows

    def choose(self, told: Mapping[str, Any]) -> None:
        """Of each factor the option that is better than the round's first row by `margin` hIoU, mean of what both
        have run; of a round without factors, its best row where `choose = "row"`."""
        first = next(iter(self.round_rows(told)))
        settings: list[str] = []
        said: dict[str, Any] = {}
        factors = told.get("factors", {})
        if told.get("choose") == "row":
            factors = {"row": told["rows"]}
        for factor, options in factors.items():
            prefix = "" if factor == "row" else f"{factor}: "
            gains = {o: self._gain(told["name"], first, f"{prefix}{o}") for o in options}
            known = {o: g for o, g in gains.items() if g is not None}
            best = max(known, key=lambda o: known[o], default=None)
            taken = best is not None and known[best] > told.get("margin", 0.0)
            said[factor] = {"gains": gains, "chosen": best if taken else first}
            if best is not None and taken:
                settings += options[best]
        self.chosen[told["name"]] = {"settings": settings, "factors": said}

    def _gain(self, round_: str, first: str, row: str) -> float | None:
        """Mean difference of hIoU over the worlds and seeds that both rows have run."""
        score = {(r["row"], r["world"], r["seed"]): r["hIoU"] for r in self.rows if r["round"] == round_}
        pairs = [(v, score.get((first, w, s))) for (name, w, s), v in score.items() if name == row]
        both = [v - base for v, base in pairs if base is not None]
        return statistics.fmean(both) if both else None

    # -- what comes out ----------------------------------------------------------------------------------
    def write(self, out: Path, about: Mapping[str, Any]) -> None:
        found = {
            "about": about,
            "rows": self.rows,
            "teachers": self.teachers,
            "chosen": self.chosen,
            "left_out": self.left_out,
            "failed": self.failed,
        }
        out.mkdir(parents=True, exist_ok=True)
        for name, text in (("results.json", json.dumps(found, indent=1)), ("results.md", self.markdown())):
            draft = out / f".{name}"
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(out / name)

    def markdown(self) -> str:
        """A table for each round: rows by worlds, hIoU / sIoU / uIoU, mean and sd over seeds."""
        parts = []
        for told in self.rounds:
            worlds = told.get("worlds", list(self.worlds))
            lines = [
                f"## {told['name']}\n",
                "| row | " + " | ".join(f"{w}: hIoU / sIoU / uIoU" for w in worlds) + " | seeds |",
                "|---" * (len(worlds) + 2) + "|",
            ]
            if any(w in self.teachers for w in worlds):
                told_of = [scores_text([self.teachers[w]] if w in self.teachers else []) for w in worlds]
                lines.append("| teacher, training-free | " + " | ".join(told_of) + " | |")
            for row in self.round_rows(told):
                of = [
                    [r for r in self.rows if (r["round"], r["row"], r["world"]) == (told["name"], row, w)]
                    for w in worlds
                ]
                seeds = max(map(len, of), default=0)
                if seeds:
                    lines.append(f"| {row} | " + " | ".join(map(scores_text, of)) + f" | {seeds} |")
            for world in worlds:
                lines += self._since(told, world)
            if told["name"] in self.chosen:
                lines.append(f"\nchosen: `{' '.join(self.chosen[told['name']]['settings']) or 'nothing'}`")
            parts.append("\n".join(lines))
        if self.left_out:
            parts.append(f"Not run for want of time: {len(self.left_out)} runs, named in results.json")
        parts += [f"Failed: {f['job']}: {f['error']}" for f in self.failed]
        return "\n\n".join(parts)

    def draw(self, out: Path) -> None:
        """The same tables as bars: chart-ROUND-WORLD.svg, and -dark.svg for dark pages, of what has run."""
        for told in self.rounds:
            for world in told.get("worlds", list(self.worlds)):
                of = {
                    row: [r for r in self.rows if (r["round"], r["row"], r["world"]) == (told["name"], row, world)]
                    for row in self.round_rows(told)
                }
                rows = {row: {s: _score([run[s] for run in runs]) for s in SCORES} for row, runs in of.items() if runs}
                for ending, dark in (("", False), ("-dark", True)) if rows else ():
                    name = f"chart-{told['name']}-{world}{ending}.svg".replace(" ", "-").replace("/", "-")
                    (out / name).write_bytes(score_bars(f"{world}, {told['name']}", rows, dark=dark))

    def _since(self, told: Mapping[str, Any], world: str) -> list[str]:
        """Of a round whose runs started from a finished one: its groups of classes, mean IoU then and now."""
        of = {
            row: [
                r.get("since", [])
                for r in self.rows
                if (r["round"], r["row"], r["world"]) == (told["name"], row, world)
            ]
            for row in self.round_rows(told)
        }
        started = {row: runs for row, runs in of.items() if runs and all(runs)}
        if not started:
            return []
        groups = [change["name"] for change in next(iter(started.values()))[0]]
        lines = ["", f"| {world}, mean IoU | " + " | ".join(groups) + " |", "|---" * (len(groups) + 1) + "|"]
        first = {c["name"]: c for c in next(iter(started.values()))[0]}
        lines.append("| before | " + " | ".join(_mean_sd([first[g]["before"]]) for g in groups) + " |")
        for row, runs in started.items():
            now = [[c["after"] for run in runs for c in run if c["name"] == group] for group in groups]
            lines.append(f"| {row} | " + " | ".join(map(_mean_sd, now)) + " |")
        return lines


def scores_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """hIoU / sIoU / uIoU of some runs, mean and sd."""
    if not rows:
        return "-"
    return " / ".join(_mean_sd([r[score] for r in rows]) for score in SCORES)


def _score(scores: Sequence[float | None]) -> Score:
    values = [v for v in scores if v is not None]
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Score(statistics.fmean(values) if values else None, sd)


def _mean_sd(scores: Sequence[float | None]) -> str:
    of = _score(scores)
    return "-" if of.mean is None else f"{of.mean:.1f}" + ("" if of.sd is None else f" ±{of.sd:.1f}")
