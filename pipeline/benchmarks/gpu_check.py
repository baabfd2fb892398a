"""Does a GPU compute what the CPU does, and does no step wait for it? `clip2seg benchmark gpu-check`.

Each check says what it measured and its bound; a check that fails, or can't run, doesn't stop the others. All of it
runs on drawn data and small networks, without installing or downloading anything, in less than four minutes.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.benchmarks.checks import images, memory, processes, values, waits
from pipeline.benchmarks.checks.bench import Bench, Failed, Skipped
from pipeline.benchmarks.checks.students import FAMILIES
from pipeline.benchmarks.harness import machine_line, result
from pipeline.benchmarks.world import open_world
from stages.running.progress import say

FAILED, NO_TIME = "FAILED", "NO TIME"
SECONDS = 225
"""A check begins no later, and the one at work ends then: a GPU may be lent for four minutes."""
CHECK_SECONDS = 100
"""A check that takes longer is a failure, and the others have their turn: the stages take the longest, some 80 s."""


class TookTooLong(Exception):
    """A check that had CHECK_SECONDS and isn't done."""


def gpu_check(device: torch.device, only: Sequence[str] = ()) -> dict[str, Any]:
    """Runs every check (or those named); the verdicts as a benchmark's result, those that did not pass under `failed`.

    A check that has no time left within SECONDS has not passed.
    """
    rows: dict[str, dict[str, Any]] = {}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="clip2seg-check-") as folder:
        bench = Bench(device, open_world("demo", 16, processes.SMALL, "", Path(folder)))
        for name, check in CHECKS.items():
            if only and name not in only:
                continue
            start = time.perf_counter()
            left = SECONDS - (start - begun)
            if left > 0:
                verdict, found = _verdict(check, bench, min(CHECK_SECONDS, left))
            else:
                verdict, found = NO_TIME, f"the {SECONDS} s for all checks were over"
            rows[name] = {"verdict": verdict, "s": round(time.perf_counter() - start, 1), "measured": found}
            say(f"{verdict:7} {name}: {found}")
    made = result("gpu-check", device, {"checks": len(rows), **_versions()}, rows, {})
    return {**made, "failed": [name for name, row in rows.items() if row["verdict"] in (FAILED, NO_TIME)]}


def check_text(found: dict[str, Any]) -> str:
    """Verdicts one a line, then the machine."""
    lines = [f"{row['verdict']:7} {name} ({row['s']} s): {row['measured']}" for name, row in found["rows"].items()]
    about = ", ".join(f"{k} {v}" for k, v in found["settings"].items())
    return "\n\n".join([f"gpu-check: {about}", "\n".join(lines), machine_line(found)])


def _verdict(check: Callable[[Bench], str], bench: Bench, seconds: float) -> tuple[str, str]:
    try:
        with _stopped_after(seconds):
            return "passed", check(bench)
    except TookTooLong:
        return FAILED, f"not done within {seconds:.0f} s"
    except Skipped as reason:
        return "skipped", str(reason)
    except Failed as failure:
        return FAILED, str(failure)
    except Exception as error:  # whatever a GPU, a driver or a compiler raises: the other checks go on
        traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    finally:
        if bench.gpu:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raises TookTooLong in the block when its time is over, where an alarm can (the main thread of a Unix process).

    A kernel that hangs is not stopped: an alarm is heard between two calls.
    """

    def over(*_: object) -> None:
        raise TookTooLong

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _versions() -> dict[str, Any]:
    found = {"torch": torch.__version__, "CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found |= {"GPU": about.name, "memory": f"{about.total_memory / 2**30:.0f} GiB"}
    return found


CHECKS: dict[str, Callable[[Bench], str]] = {
    "losses and gradients as on the CPU": values.losses,
    "pixel loss as in float64": values.pixel_loss,
    "pixel loss in as much memory as computed": memory.pixel_memory,
    **{f"no wait: student {family}": partial(waits.student_waits, family=family) for family in FAMILIES},
    "no wait: losses, negatives, calibrators": waits.settings_wait,
    "no wait: few labels; compiled pixel loss": waits.few_labels,
    "resumed equals unbroken": values.resumed,
    "AdamW, fused": values.adamw,
    "channels-last": values.channels_last,
    "teacher's tokens as on the CPU": images.teacher,
    "latent cells as on the CPU": images.mining,
    "faiss on the GPU": images.faiss_gpu,
    "evaluation as on the CPU": images.evaluation,
    "one process on nccl": processes.one_process_group,
    "compiled student": values.compiled,
    "the stages, as a user runs them": processes.stages,
}
"""Name -> check, the quick ones first."""
