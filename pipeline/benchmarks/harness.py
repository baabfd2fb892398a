"""Rounds in which the sides take turns, memory, the machine in words, and a result as JSON and as text."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.text import columns

Side = Callable[[], Any]


@dataclass
class Measured:
    """Seconds of each side, round by round: by the clock, and of this process's processors (no children's)."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    def median(self, side: str) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds[side])

    def ratio(self, side: str, over: str, most: float | None = None, least: float | None = None) -> dict[str, Any]:
        """Median over median, and the span of the rounds; with a target, whether it is met."""
        return _paired(self.seconds[side], self.seconds[over], most, least)

    def processor_ratio(self, side: str, over: str, most: float | None = None) -> dict[str, Any]:
        """The same in processor time: what remains where other programs take the cores away."""
        return _paired(self.processor[side], self.processor[over], most, None)


def _paired(taken: list[float], over: list[float], most: float | None, least: float | None) -> dict[str, Any]:
    each = [a / max(b, 1e-9) for a, b in zip(taken, over, strict=True)]
    middle = statistics.median(taken) / max(statistics.median(over), 1e-9)
    return ratio(middle, most, least, span=(min(each), max(each)))


def ratio(
    value: float, most: float | None = None, least: float | None = None, span: tuple[float, float] | None = None
) -> dict[str, Any]:
    """A ratio as JSON: the value, the target (`most` or `least`) and whether it is met."""
    found: dict[str, Any] = {"value": round(value, 3)}
    if span is not None:
        found["rounds"] = [round(v, 3) for v in span]
    if most is not None:
        found |= {"target": f"at most {most:g}", "met": value <= most}
    if least is not None:
        found |= {"target": f"at least {least:g}", "met": value >= least}
    return found


def interleaved(sides: Mapping[str, Side], rounds: int, device: torch.device, *, warm: int = 1) -> Measured:
    """Runs all sides in turn, `rounds` times after `warm` rounds that don't count; every second round backwards."""
    measured = Measured({name: [] for name in sides}, {name: [] for name in sides})
    for turn in range(-warm, rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            busy = time.process_time()
            taken = seconds(sides[name], device)
            if turn >= 0:
                measured.seconds[name].append(taken)
                measured.processor[name].append(time.process_time() - busy)
    return measured


def seconds(side: Side, device: torch.device) -> float:
    """Wall time of one call, a GPU's queue included."""
    _wait(device)
    start = time.perf_counter()
    side()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a module's function returns in a process of its own; arguments and result travel as JSON."""
    code = (
        "import importlib, json, sys; module, name, given = sys.argv[1:]; "
        "print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(given))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, function.__module__, function.__name__, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    if done.returncode:
        raise RuntimeError(f"{function.__name__}{arguments}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """The most memory that this process has held [MiB].

    From /proc where there is one: `ru_maxrss` of a child begins at what its parent held when it was started.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class AllocatedBytes(TorchDispatchMode):
    """Bytes of the storages that operations in the block make, while they live; not what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._new((args, kwargs))
        out = func(*args, **(kwargs or {}))
        for storage in self._new(out):
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage.nbytes())
        return out

    def _new(self, tree: Any) -> list[Any]:
        """Storages of a tree of tensors that were not seen before; they are from now on."""
        each = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        new = {id(one): one for one in each if one not in self.known}
        self.known.update(dict.fromkeys(new.values(), True))
        return list(new.values())

    def _gone(self, size: int) -> None:
        self.now -= size


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for: processor, cores, threads, load [1 min mean], GPU, versions, date."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
        "load_average": round(os.getloadavg()[0], 1),
        "device": str(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor() or 'unknown'} ({platform.machine()})"


def result(
    name: str,
    device: torch.device,
    settings: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    ratios: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What every benchmark returns: JSON."""
    return {
        "benchmark": name,
        "machine": machine(device),
        "settings": dict(settings),
        "rows": {k: dict(v) for k, v in rows.items()},
        "ratios": {k: dict(v) for k, v in ratios.items()},
    }


def text(found: Mapping[str, Any]) -> str:
    """The settings, a table of the rows, a table of the ratios with their targets, the machine."""
    keys = list(dict.fromkeys(key for row in found["rows"].values() for key in row))
    table: list[list[object]] = [["", *keys]]
    table += [[name, *(_number(row.get(key)) for key in keys)] for name, row in found["rows"].items()]
    aims: list[list[object]] = [["ratio", "value", "rounds", "target", ""]]
    for name, one in found["ratios"].items():
        span = "-".join(f"{v:g}" for v in one["rounds"]) if "rounds" in one else None
        verdict = "" if "met" not in one else "met" if one["met"] else "MISSED"
        aims.append([name, f"{one['value']:g}", span, one.get("target"), verdict])
    settings = ", ".join(f"{k} {v}" for k, v in found["settings"].items())
    parts = [lines(f"{found['benchmark']}: {settings}"), columns(table)]
    if found["ratios"]:
        parts.append(columns(aims))
    return "\n\n".join([*parts, machine_line(found)])


def machine_line(found: Mapping[str, Any]) -> str:
    """The machine of a result."""
    return lines(f"machine: {', '.join(f'{k} {v}' for k, v in found['machine'].items() if v != '')}")


def lines(text: str) -> str:
    """A text in lines that fit a page of docs/."""
    return textwrap.fill(text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _number(value: object) -> str | None:
    if value is None:
        return None
    return f"{value:.4g}" if isinstance(value, float) else str(value)
