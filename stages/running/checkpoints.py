"""A run's checkpoints: the student, the optimiser's state, the curve until there; and who may write them."""

from __future__ import annotations

import hashlib

from cache.claims import SUFFIX as CLAIM
from cache.claims import holding, ours
from cache.errors import InputError
from cache.headers import FILE as STUDENT
from cache.location import Location
from stages.parts.learning.distributed import all_gather_object
from stages.parts.learning.trainer import Trainer
from stages.parts.students.checkpoint import pack_state, unpack_state
from stages.running.curves import NAME as CURVES
from stages.running.curves import curves_at, curves_bytes
from stages.running.progress import say


def resumed(out: Location, trainer: Trainer) -> tuple[int, list[dict[str, float]], float, str]:
    """Iteration to go on with, the curve until there, seconds spent, sha256 of the student that belongs to it."""
    packed = out.get("state.safetensors")
    digest = hashlib.sha256(packed or b"").hexdigest()
    if len(set(all_gather_object(digest))) > 1:
        raise InputError(
            f"{out}: the processes find different checkpoints there; --artifacts must be one place for all"
        )
    if packed is None:
        return 0, [], 0.0, ""
    where = f"{out}/state.safetensors"
    about = unpack_state(packed, trainer.modules(), trainer.optimiser, where)
    iteration, seconds, student = (about.get(key) for key in ("iteration", "seconds", "student"))
    counted = isinstance(iteration, int) and 0 <= iteration <= trainer.cfg.iterations
    timed = isinstance(seconds, (int, float)) and 0 <= seconds < float("inf")
    if not (counted and timed and isinstance(student, str)):
        raise InputError(
            f"{where}: says iteration {str(iteration)[:20]} of {trainer.cfg.iterations} after {str(seconds)[:20]} s; "
            "it is no state of this run; remove it to train from the start"
        )
    if about.get("scaler"):
        trainer.scaler.load_state_dict(about["scaler"])
    say(f"train: resumed at iteration {iteration}")
    start = int(iteration or 0)
    return start, [point for point in curves_at(out) if point["iteration"] < start], float(seconds or 0.0), student


def check_claim(out: Location) -> None:
    """Raises InputError where another process took this run over, or ended it, while this one was stopped, or where
    the run's folder was removed."""
    if out.get("complete.json") is None:
        if ours(out, CLAIM):
            return
        if holding(out, CLAIM) is None:
            raise InputError(
                f"{out}: {CLAIM} is gone, so the folder was removed while this run trained; nothing was written there. "
                "Look whether its cache is still there (`clip2seg plan`), then train again"
            )
    raise InputError(f"{out}: another process took this run over while this one stood still; nothing was overwritten")


def save(
    out: Location,
    trainer: Trainer,
    student: bytes,
    curves: list[dict[str, float]],
    iteration: int,
    seconds: float,
) -> str:
    """Writes a checkpoint; returns the sha256 of its student."""
    digest = hashlib.sha256(student).hexdigest()
    state = {"iteration": iteration, "seconds": seconds, "scaler": trainer.scaler.state_dict(), "student": digest}
    packed_state = pack_state(trainer.modules(), trainer.optimiser, state)
    check_claim(out)
    out.put(CURVES, curves_bytes(curves))
    # The state goes last: it is what a resumed run believes.
    out.put(STUDENT, student)
    out.put("state.safetensors", packed_state)
    return digest
