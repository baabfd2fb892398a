"""Trains and scores many variants of the method side by side on one machine, within a budget of seconds.

    python experiments/study.py experiments/studies/settings.toml --out results --budget 440 --parallel 5 --workers 2

A study (a TOML file, `experiments/studies/` has some) has worlds - a preset with settings - and rounds of rows, each
row a name with settings, in which {seed} stands for the seed. Caches are extracted and mined once, by all processes
together; then each process trains and scores one run after another. What is complete is not computed again, so a study
that was stopped goes on. A round chooses: of the options of a factor the best one, by mean hIoU over worlds and seeds,
becomes part of what later rounds start `from`.

Nothing is started that would not end in time, what runs at the end of the budget is stopped, and results.json and
results.md are written after every run; charts of the tables (chart-ROUND-WORLD.svg) at the end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.crew import Crew, plan_of
from experiments.rounds import Job, Study, scores_text
from pipeline.config import load_config

EVALUATION_SECONDS = 20.0
"""What scoring a run is taken to cost before one was scored."""


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
            note(f"teacher, training-free [{job.world}] {scores_text([result])}")
        elif what == "run":
            pace.saw(job, result)
            found.rows.append({"round": job.round, "world": job.world, "row": job.row, "seed": job.seed,
                               "settings": list(job.settings), **result})  # fmt: skip
            took = f"train {result['train_seconds']} s, eval {result['eval_seconds']} s"
            note(f"{job.name} {scores_text([result])}  {took}")
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
    found.draw(out)
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
