"""Kills each stage before and after every one of its writes and deletions, and looks whether the next run mends it.

    python tests/evidence/torture.py [--stage NAME ...] [--markdown FILE]      # `make torture`

Each stage runs once undisturbed on the tiny world of tests/conftest.py and its writes are counted. Then, for every
write and every moment (before, after), a process that runs the stage is killed there with SIGKILL, the stage is run
again, and what lies there must be, byte for byte, what the undisturbed run left (times apart), with no fault that
`cache verify` finds. Exit code 1 where it is not. Linux and macOS only: it forks from a server.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

STAGES = ("extract", "mine-latent", "train", "eval", "predict", "export", "data init")
SETTINGS = ("extract.shard=12", "extract.batch=12", "train.iterations=3", "train.batch=2", "train.warmup=1")
PRELOAD = ["open_clip", "stages.extract", "stages.mine_latent", "stages.train", "stages.evaluate", "stages.data.init",
           "pipeline.run", "pipeline.score", "pipeline.use.export", "pipeline.use.predict",
           "tests.conftest"]  # fmt: skip
"""Modules that every process finds imported."""
TIMED = re.compile(r"tensorboard/|report\.html$|claim\.json$|/inspect/|\.toml\.bak$")
"""Files that hold times, or nothing that is read again."""


@dataclass
class Counted:
    """Writes so far, and the one to die at: its number, and whether before or after it."""

    number: int = 0
    fatal: int = -1
    after: bool = False
    log: list[str] = field(default_factory=list)

    def around(self, name: str, act: Callable[[], Any]) -> Any:
        """One write. Kills this process at the fatal one."""
        mine, self.number = self.number, self.number + 1
        self.log.append(name)
        if mine == self.fatal and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = act()
        if mine == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def watch(counted: Counted) -> None:
    """Has every write of this process counted: objects of a store, whole files, deletions."""
    import cache.files
    import stages.data.init
    import stages.export
    import stages.predict
    from cache.location import Location

    for name in ("put", "put_new", "delete"):
        original = getattr(Location, name)

        def method(self: Location, key: str, *rest: Any, _name: str = name, _original: Any = original) -> Any:
            if key.endswith("claim.json") and sys._getframe(1).f_code.co_name == "_renew":
                return _original(self, key, *rest)  # by the clock, not by the work
            return counted.around(f"{_name} {key}", lambda: _original(self, key, *rest))

        setattr(Location, name, method)
    whole = cache.files.write_whole

    def written(path: Path, data: bytes) -> None:
        counted.around(f"write {path.name}", lambda: whole(path, data))

    for module in (stages.data.init, stages.export, stages.predict):
        module.write_whole = written  # type: ignore[attr-defined]
    unlink = Path.unlink

    def unlinked(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".part" or "claims" in str(self):
            return unlink(self, missing_ok=missing_ok)
        return counted.around(f"unlink {self.name}", lambda: unlink(self, missing_ok=missing_ok))

    Path.unlink = unlinked  # type: ignore[method-assign,assignment]


class World:
    """The tiny world, and a command for each stage that works in one folder."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny

    def run(self, stage: str, at: Path) -> None:
        """Runs a stage below `at` in this process."""
        from pipeline import run, score
        from pipeline.machine import Machine

        tiny = self.tiny
        if stage in ("extract", "mine-latent", "train", "eval"):
            plan, machine = tiny.plan(*SETTINGS, artifacts=at / "artifacts"), Machine("cpu", 0)
            functions = {
                "extract": run.extract,
                "mine-latent": run.mine_latent,
                "train": run.train,
                "eval": score.evaluate,
            }
            functions[stage](plan, machine)
            return
        if stage == "data init":
            from stages.data.init import init

            made = list((at / "own").glob("*.toml"))
            init(str(at / "own"), force=bool(made))
            return
        from pipeline.use.student import load_student

        student = load_student(str(tiny.plan(*SETTINGS, artifacts=at / "artifacts").address("train")), device="cpu")
        if stage == "predict":
            from pipeline.use.predict import predict

            predict(student, str(at / "photos"), str(at / "out"), None, {}, 10**6)
        else:
            from pipeline.use.export import export

            export(student, None, str(at / "out"), format="safetensors", photos=str(at / "photos"), opset=18,
                   seen_bias=0.0, push_to_hub="")  # fmt: skip

    def lay_out(self, stage: str, at: Path) -> None:
        """What the stage reads."""
        if stage == "data init":
            for kind, source in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
                (at / "own" / kind).mkdir(parents=True)
                for file in sorted((self.tiny.data / source).glob("train*"))[:6]:
                    shutil.copy(file, at / "own" / kind)
            return
        before = {"extract": 0, "mine-latent": 1, "train": 2, "eval": 3}.get(stage, 3)
        for name in ("extract", "mine-latent", "train")[:before]:
            self.run(name, at)
        if stage in ("predict", "export"):
            (at / "photos").mkdir()
            for name in ("val00.jpg", "val01.jpg"):
                shutil.copy(self.tiny.data / "JPEGImages" / name, at / "photos")


_CONTEXT = multiprocessing.get_context("forkserver")
"""Processes from one that has everything imported and nothing begun: no thread of it is lost in a fork."""


def _work(do: str, tiny: Path, stage: str, at: Path, fatal: int, after: bool, names: Path, log: Path) -> None:
    """What a process of its own does: lays out, counts, dies at a write, or runs undisturbed."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    import stages.train
    from tests.conftest import Tiny

    stages.train.CHECKPOINT_SECONDS, stages.train.LOG_EVERY = 0.0, 1
    world = World(Tiny(tiny))
    if do == "lay out":
        world.lay_out(stage, at)
        return
    counted = Counted(fatal=fatal, after=after)
    if do != "run":
        watch(counted)
    world.run(stage, at)
    names.write_text("\n".join(counted.log))


def in_process(do: str, tiny: Path, stage: str, at: Path, folder: Path, fatal: int = -1, after: bool = False) -> int:
    """Runs `_work` in a process of its own; its exit status, negative for a signal."""
    log = folder / "log.txt"
    process = _CONTEXT.Process(target=_work, args=(do, tiny, stage, at, fatal, after, folder / "writes.txt", log))
    process.start()
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
        return 1
    code = process.exitcode
    process.close()
    return 1 if code is None else code


def contents(at: Path) -> dict[str, str]:
    """Name -> sha256 of what a stage left; of marks what does not depend on the clock."""
    import json

    found = {}
    for file in sorted(at.rglob("*")):
        name = str(file.relative_to(at))
        if not file.is_file() or TIMED.search(name) or re.search(r"#\d+$|\.part$", name):
            continue
        data = file.read_bytes()
        if file.suffix == ".json":
            value = json.loads(data)
            value = _timeless(value) if isinstance(value, dict) else value
            data = json.dumps(value, sort_keys=True).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    clocks = ("seconds", "seal", "views_per_second", "images_per_second", "iterations_per_second", "waiting_share",
              "ms_per_view", "faiss_seconds", "run", "file")  # fmt: skip
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in clocks}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def torture(stage: str, tiny: Path, folder: Path) -> tuple[int, list[str], float]:
    """Kills, and every way in which what came of one differs from an undisturbed run."""
    from pipeline.upkeep.cache_tools import collect, verify

    start, base, calm, log = time.perf_counter(), folder / "base", folder / "calm", folder / "log.txt"
    base.mkdir(parents=True)
    if in_process("lay out", tiny, stage, base, folder):
        return 0, [f"{stage}: {log.read_text()[-2000:]}"], 0.0
    shutil.copytree(base, calm)
    if in_process("count", tiny, stage, calm, folder):
        return 0, [f"{stage}: {log.read_text()[-2000:]}"], 0.0
    writes, wrong, kills = (folder / "writes.txt").read_text().splitlines(), [], 0
    if (calm / "artifacts").is_dir():
        collect(str(calm / "artifacts"), "", None, dry=False)
    wanted = contents(calm)
    for number, after in ((n, a) for n in range(len(writes)) for a in (False, True)):
        at, said = folder / "killed", f"{stage}: killed {'after' if after else 'before'} {writes[number]}"
        shutil.rmtree(at, ignore_errors=True)
        shutil.copytree(base, at)
        status = in_process("die", tiny, stage, at, folder, number, after)
        if status != -signal.SIGKILL:
            wrong.append(f"{said}: not reached (exit {status})")
            continue
        kills += 1
        if in_process("run", tiny, stage, at, folder):
            wrong.append(f"{said}: the next run fails: {log.read_text()[-300:]!r}")
            continue
        if (at / "artifacts").is_dir():
            collect(str(at / "artifacts"), "", None, dry=False)
            wrong += [f"{said}: {fault}" for fault in verify(str(at / "artifacts"))["faults"]]
        left = contents(at)
        differ = sorted(n for n in {*left, *wanted} if left.get(n) != wanted.get(n))
        wrong += [f"{said}: {', '.join(differ[:4])} differ"] if differ else []
    return kills, wrong, time.perf_counter() - start


def stages_asked(given: list[str]) -> Iterator[str]:
    yield from (s for s in STAGES if not given or s in given)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", default=[], choices=STAGES)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    asked = parser.parse_args()
    from tests.conftest import write_tiny

    _CONTEXT.set_forkserver_preload(PRELOAD)
    rows, bad = ["| stage | kills | not mended | seconds |", "|---|---|---|---|"], 0
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny(Path(folder) / "tiny").root
        for stage in stages_asked(asked.stage):
            kills, wrong, seconds = torture(stage, tiny, Path(folder) / stage.replace(" ", "-"))
            rows.append(f"| {stage} | {kills} | {len(wrong)} | {seconds:.0f} |")
            print(rows[-1], flush=True)
            print(*wrong, sep="\n", flush=True)
            bad += len(wrong)
    table = "\n".join([*rows, "", f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"])
    print(f"\n{table}")
    if asked.markdown:
        asked.markdown.write_text(table + "\n")
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())
