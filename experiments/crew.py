"""The processes of a study: what each does with a run, and the crew that hands runs to them."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from experiments.decoded import remembered
from experiments.rounds import SCORES, Job
from pipeline.config import load_config, preset_name
from pipeline.plan import Plan

KEPT = (*SCORES, "pixel_accuracy", "classes", "images")


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

    from pipeline.machine import Machine

    torch.set_num_threads(args.threads)
    log = (Path(args.out) / "log.txt").open("a", buffering=1, encoding="utf-8")
    sys.stderr = log  # progress bars of several runs would write over each other
    machine = Machine(args.device, args.workers)
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
    from pipeline import run, score

    decoded = Path(args.artifacts) / "decoded" if args.in_memory else None
    plan, start = plan_of(job, args, decoded), time.perf_counter()
    if what == "cache":
        run.make_cache(plan, machine)
        return {"seconds": time.perf_counter() - start}
    if what == "teacher":
        run.extract(plan, machine)
        report = score.evaluate_teacher(plan, machine)["report"]
        return report.model_dump(mode="json", include={*KEPT}) | {"seconds": time.perf_counter() - start}
    run.make_cache(plan, machine)
    cached = time.perf_counter()
    trained = run.train(plan, machine)
    middle = time.perf_counter()
    scored = score.evaluate(plan, machine)
    report = scored["report"]
    curve = [vars(p) for p in score.bias_curve(plan, machine)[::5]] if job.curve else []
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
