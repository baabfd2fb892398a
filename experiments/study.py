"""Trains and scores many variants of the method side by side on one machine, within a budget of seconds.

    python experiments/study.py experiments/studies/settings.toml --out results --budget 440 --parallel 5 --workers 2

A study (a TOML file, `experiments/studies/` has some) has worlds - a preset with settings - and rounds of rows, each
row a name with settings, in which {seed} stands for the seed. Caches are extracted and mined once, by all processes
together; then each process trains and scores one run after another. What is complete is not computed again, so a study
that was stopped goes on. A round chooses: of the options of a factor the best one, by mean hIoU over worlds and seeds,
becomes part of what later rounds start `from`.

Nothing is started that would not end in time, what runs at the end of the budget is stopped, and results.json and
results.md are written after every run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
import tomllib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.decoded import remembered
from pipeline.config import load_config, preset_name
from pipeline.plan import Plan

SCORES = ("hIoU", "sIoU", "uIoU")
KEPT = (*SCORES, "pixel_accuracy", "classes", "images")
EVALUATION_SECONDS = 20.0
"""What scoring a run is taken to cost before one was scored."""


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
                told_of = [_three([self.teachers[w]] if w in self.teachers else []) for w in worlds]
                lines.append("| teacher, training-free | " + " | ".join(told_of) + " | |")
            for row in self.round_rows(told):
                of = [
                    [r for r in self.rows if (r["round"], r["row"], r["world"]) == (told["name"], row, w)]
                    for w in worlds
                ]
                seeds = max(map(len, of), default=0)
                if seeds:
                    lines.append(f"| {row} | " + " | ".join(map(_three, of)) + f" | {seeds} |")
            for world in worlds:
                lines += self._since(told, world)
            if told["name"] in self.chosen:
                lines.append(f"\nchosen: `{' '.join(self.chosen[told['name']]['settings']) or 'nothing'}`")
            parts.append("\n".join(lines))
        if self.left_out:
            parts.append(f"Not run for want of time: {len(self.left_out)} runs, named in results.json")
        parts += [f"Failed: {f['job']}: {f['error']}" for f in self.failed]
        return "\n\n".join(parts)

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


def _three(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "-"
    return " / ".join(_mean_sd([r[score] for r in rows]) for score in SCORES)


def _mean_sd(scores: Sequence[float | None]) -> str:
    values = [v for v in scores if v is not None]
    spread = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}" if values else "-"


# -- in a process of its own ---------------------------------------------------------------------------------------


def plan_of(job: Job, args: argparse.Namespace, decoded: Path | None = None) -> Plan:
    """The plan of a run; with `decoded` its photos come from memory."""
    made = Plan(load_config(job.preset, job.settings), preset_name(job.preset), args.artifacts, _data_of(job, args))
    if decoded is not None and made.config.demo_world is None:  # drawn scenes are small, and not drawn yet
        made.__dict__["train_data"] = remembered(made.train_data, decoded)
        made.__dict__["val_data"] = remembered(made.val_data, decoded)
    return made


def _data_of(job: Job, args: argparse.Namespace) -> str:
    chosen: str = dict(d.partition("=")[::2] for d in args.data).get(job.world, "")
    return chosen


def work(pipe: Connection, args: argparse.Namespace) -> None:
    """A process: takes (what, job) until None, gives back (result or None, error); ends with the study's own."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from pipeline import run

    torch.set_num_threads(args.threads)
    log = (Path(args.out) / "log.txt").open("a", buffering=1, encoding="utf-8")
    sys.stderr = log  # progress bars of several runs would write over each other
    machine = run.Machine(args.device, args.workers)
    while (told := pipe.recv()) is not None:
        what, job = told
        try:
            print(f"--- {os.getpid()}: {what} {job.name}: {' '.join(job.settings)}", file=log)
            pipe.send((_done(what, job, args, machine), ""))
        except BaseException as error:  # a row that fails must not end the study
            traceback.print_exc(file=log)
            pipe.send((None, f"{type(error).__name__}: {error}".splitlines()[0]))
            if isinstance(error, KeyboardInterrupt):
                return


def _end_with_parent() -> None:
    """A study that is killed says nothing to its processes: each watches for itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # stages are made to be killed: what is committed stays


def _done(what: str, job: Job, args: argparse.Namespace, machine: Any) -> dict[str, Any]:
    from pipeline import run

    decoded = Path(args.artifacts) / "decoded" if args.in_memory else None
    plan, start = plan_of(job, args, decoded), time.perf_counter()
    if what == "cache":
        run.extract(plan, machine)
        if plan.distilled:
            run.mine_latent(plan, machine)
        return {"seconds": time.perf_counter() - start}
    if what == "teacher":
        run.extract(plan, machine)
        report = run.evaluate_teacher(plan, machine)["report"]
        return report.model_dump(mode="json", include={*KEPT}) | {"seconds": time.perf_counter() - start}
    run.extract(plan, machine)
    if plan.distilled:
        run.mine_latent(plan, machine)
    cached = time.perf_counter()
    trained = run.train(plan, machine)
    middle = time.perf_counter()
    scored = run.evaluate(plan, machine)
    report = scored["report"]
    curve = [vars(p) for p in run.bias_curve(plan, machine)[::5]] if job.curve else []
    return {
        "iterations": plan.config.train.iterations,
        **report.model_dump(mode="json", include={*KEPT}),
        "since": [change.model_dump(mode="json") for change in scored.get("since", [])],
        "cache_seconds": round(cached - start, 2),
        "train_seconds": round(middle - cached, 2),
        "eval_seconds": round(time.perf_counter() - middle, 2),
        "already": trained["already_complete"],
        "curve": curve,
        "training": trained["summary"],
        "address": plan.fingerprint("train"),
    }


# -- the parent ----------------------------------------------------------------------------------------------------


class Crew:
    """The processes, started when there is work for them, and which job each has."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.context = multiprocessing.get_context("spawn")  # CUDA can't be used in a fork of a process that used it
        self.processes: dict[int, Any] = {}
        self.pipes: dict[int, Connection] = {}
        self.busy: dict[int, tuple[str, Job]] = {}
        self.taught: set[str] = set()
        """Worlds whose teacher has been scored."""

    def idle(self) -> list[int]:
        """Those without a job; not those that died."""
        return [i for i in range(self.args.parallel) if i not in self.busy and self._lives(i)]

    def _lives(self, i: int) -> bool:
        return i not in self.processes or self.processes[i].is_alive()

    def give(self, i: int, what: str, job: Job) -> None:
        """Hands a job to an idle process."""
        if i not in self.processes:
            self.pipes[i], theirs = self.context.Pipe()
            self.processes[i] = self.context.Process(target=work, args=(theirs, self.args))
            self.processes[i].start()
            theirs.close()  # or its end would never be seen from here
        self.busy[i] = (what, job)
        self.pipes[i].send((what, job))

    def results(self, timeout: float) -> Iterator[tuple[str, Job, dict[str, Any] | None, str]]:
        """What came back within `timeout` seconds at most; a process that died gives its job back as failed."""
        ready = wait([self.pipes[i] for i in self.busy], timeout) if self.busy else []
        for i in [i for i in self.busy if self.pipes[i] in ready]:
            what, job = self.busy.pop(i)
            try:
                result, error = self.pipes[i].recv()
            except EOFError:
                result, error = None, "its process died (out of memory?)"
            yield what, job, result, error

    def stop(self) -> list[tuple[str, Job]]:
        """Ends all processes, and says what they were at."""
        for i, process in self.processes.items():
            if i in self.busy:
                process.terminate()
            elif process.is_alive():
                self.pipes[i].send(None)
        for process in self.processes.values():
            process.join(10)
            if process.is_alive():
                process.kill()
        return list(self.busy.values())


class Pace:
    """How long a run takes, by the runs of its round that ended; before one has, by those of other rounds."""

    def __init__(self, guess: float) -> None:
        self.guess, self.scoring = guess, EVALUATION_SECONDS
        self.seen: dict[str, list[float]] = {}

    def saw(self, job: Job, result: Mapping[str, Any]) -> None:
        """Takes note of a run that ended."""
        if not result["already"]:
            self.seen.setdefault(job.round, []).append(result["train_seconds"] / result["iterations"])
            self.scoring = result["eval_seconds"]

    def seconds(self, job: Job, iterations: int) -> float:
        """Seconds that a run will take."""
        if job.round in self.seen:
            return iterations * max(self.seen[job.round][-6:]) + self.scoring
        others = [rate for rates in self.seen.values() for rate in rates]
        return iterations * max([self.guess, *others]) + self.scoring


def study(args: argparse.Namespace) -> int:
    """Runs a study; returns the exit code."""
    begun = time.perf_counter()
    found, out = Study.read(Path(args.study), args.set), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    about = {"study": args.study, "budget": args.budget, "parallel": args.parallel, "device": args.device}
    crew, pace = Crew(args), Pace(args.seconds_per_iteration)

    def left() -> float:
        return float(args.budget) - (time.perf_counter() - begun)

    def note(text: str) -> None:
        print(f"[{args.budget - left():5.0f} s] {text}", flush=True)

    def record(what: str, job: Job, result: dict[str, Any] | None, error: str) -> None:
        if result is None:
            found.failed.append({"job": job.name, "error": error})
            note(f"FAILED {what} {job.name}: {error}")
        elif what == "teacher":
            found.teachers[job.world] = result
            note(f"teacher, training-free [{job.world}] {_three([result])}")
        elif what == "run":
            pace.saw(job, result)
            found.rows.append({"round": job.round, "world": job.world, "row": job.row, "seed": job.seed,
                               "settings": list(job.settings), **result})  # fmt: skip
            note(f"{job.name} {_three([result])}  train {result['train_seconds']} s, eval {result['eval_seconds']} s")
        found.write(out, about | {"seconds": round(args.budget - left(), 1)})

    try:
        for number, told in enumerate(found.rounds):
            until = min(left(), told.get("share", 1.0) * left())
            end = left() - until
            note(f"round {told['name']}: {until:.0f} s")
            jobs = found.jobs(number)
            caches(jobs, args, crew, record, left, end, note)
            teachers = [j for j in {j.world: j for j in jobs}.values() if args.teacher and j.world not in crew.taught]
            queue, iterations = list(jobs), {j: load_config(j.preset, j.settings).train.iterations for j in jobs}
            while (queue or crew.busy) and left() > 0:
                for i in crew.idle():
                    if teachers:
                        crew.taught.add(teachers[0].world)
                        crew.give(i, "teacher", teachers.pop(0))
                        continue
                    job = next((j for j in queue if left() - pace.seconds(j, iterations[j]) > end), None)
                    if job is None:
                        break
                    queue.remove(job)
                    crew.give(i, "run", job)
                if not crew.busy:
                    break
                for one in crew.results(min(2.0, max(left(), 0.1))):
                    record(*one)
            found.left_out += [j.name for j in queue]
            found.choose(told)
            note(f"chosen: {' '.join(found.chosen[told['name']]['settings']) or 'nothing'}")
    finally:
        found.left_out += [job.name for what, job in crew.stop() if what == "run"]
        found.write(out, about | {"seconds": round(args.budget - left(), 1)})
    print(found.markdown())
    return bool(found.failed)


def caches(jobs: Sequence[Job], args: Any, crew: Crew, record: Any, left: Any, end: float, note: Any) -> None:
    """Every cache that several rows read, made by all processes together.

    A cache of one row alone is made by its own run, while others train.
    """
    readers: dict[tuple[str, ...], list[Job]] = {}
    for job in {j.world: j for j in jobs}.values() if args.in_memory else ():
        plan_of(job, args, Path(args.artifacts) / "decoded")
    for job in jobs:
        plan = plan_of(job, args)
        if plan.distilled and any(plan.artifact(kind).summary() is None for kind in ("tokens", "latent")):
            readers.setdefault(tuple(str(plan.address(kind)) for kind in ("tokens", "latent")), []).append(job)
    for readers_of in readers.values():
        if len({job.row for job in readers_of}) < 2 or left() <= end:
            continue
        job, start = readers_of[0], time.perf_counter()
        for i in crew.idle():
            crew.give(i, "cache", job)
        while crew.busy and left() > 0:
            for one in crew.results(min(2.0, max(left(), 0.1))):
                record(*one)
        note(f"cache [{job.world}] in {time.perf_counter() - start:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="the study: a TOML file")
    parser.add_argument("--out", default="results", help="folder of results.json, results.md and log.txt")
    parser.add_argument("--artifacts", default="artifacts", help="folder of caches and runs")
    parser.add_argument("--data", action="append", default=[], metavar="WORLD=FOLDER", help="a world's data folder")
    parser.add_argument("--set", action="append", default=[], help="a setting for every run: table.key=value")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds, all included")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each run")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--in-memory", action="store_true", help="decode the photos once, for all runs")
    parser.add_argument("--teacher", action="store_true", help="score each world's teacher training-free too")
    parser.add_argument("--seconds-per-iteration", type=float, default=0.06, help="guess, until a run has ended")
    return study(parser.parse_args(argv))


if __name__ == "__main__":
    # As Ctrl-C: the processes are ended, and results written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    raise SystemExit(main())
