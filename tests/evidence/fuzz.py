# ruff: noqa: E402 - the folder of the repository must be on the path first
"""Forged marks, array metadata, student headers, presets and teacher folders, for as long as asked.

    python tests/evidence/fuzz.py [--minutes 10] [--markdown FILE]      # `make fuzz`

Hypothesis changes what a sound file says (and seals it again where it has a seal); then everything that reads such a
file is run on it. It must work or raise InputError in one line: any other exception, an allocation that would take
the process over 1 GiB more than it had, or a changed file beside the artifacts ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase

from cache.errors import InputError
from cache.location import Location, sealed, unsealed
from cache.store import Artifact
from cache.summary import summarise
from pipeline.config import load_config
from pipeline.study.runs import run_at
from pipeline.upkeep import cache_text
from pipeline.upkeep import cache_tools as cache_tool

GIB = 2**30
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from([-1, 0, 2**24, 10**9, 7 * 2**40, "../../x", "/etc/passwd", "\x1b[31m", "\u202e", "", "NaN", [], {},
                     ".zarray", "numcodecs.pickle", "local-dir:/", "hf-hub:a/b", True]),
    st.lists(st.integers(-2, 2**33), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(-2, 300), max_size=3),
)  # fmt: skip
"""What stands where something sensible stood."""


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, one in inner for p in nodes(one, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one to three entries replaced, taken out or added."""
    made = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from([p for p in nodes(made) if p] or [()]))
        if not where:
            return draw(ODD)
        holder = made
        for key in where[:-1]:
            holder = holder[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "take out", "add"]))
        if how == "replace":
            holder[where[-1]] = draw(ODD)
        elif how == "take out":
            del holder[where[-1]]
        elif isinstance(holder, dict):
            holder[draw(st.one_of(st.text(max_size=12), st.sampled_from(["codecs", "filters", "auto_map"])))] = draw(
                ODD
            )
        else:
            holder.append(draw(ODD))
    return made


class World:
    """A preset's folder with one address of each sort, something precious beside it, and sound copies of both."""

    def __init__(self, root: Path) -> None:
        from tests.conftest import write_teacher

        self.root, self.artifacts = root, root / "artifacts"
        self.folder = self.artifacts / "p"
        (root / "beside").mkdir(parents=True)
        (root / "beside/precious.txt").write_text("mine")
        self.write_tokens()
        self.write_run()
        write_teacher(root / "teacher")
        self.sound = {f: f.read_bytes() for f in root.rglob("*") if f.is_file()}
        self.tally: Counter[str] = Counter()

    def write_tokens(self) -> None:
        at = Location(str(self.folder)).child("tokens-12345678.zarr")
        self.tokens = Artifact(at, "tokens").create({"stage": "extract p", "dtype": "float16", "seen": ["a", "b"],
                                                      "ingredients": {}, "teacher": {"model": "m"}})  # fmt: skip
        arrays = {
            "global": np.ones((2, 3), np.float16), "local": np.ones((3, 3), np.float16),
            "local_region": np.array([0, 1, 0], np.uint8), "local_offsets": np.array([0, 2, 3]),
            "image_size": np.full((2, 2), 7, np.int32), "view_seed": np.zeros(2, np.uint64),
            "labels_crc": np.zeros(2, np.uint32), "photo_crc": np.zeros(2, np.uint32),
        }  # fmt: skip
        self.tokens.write(0, ["x", "y"], arrays, {"bad": [], "regions": 3, "classes": [0, 1]})
        self.tokens.finish({"views": 2}, 1)

    def write_run(self) -> None:
        import torch

        from stages.parts.students import StudentConfig, build_student
        from stages.parts.students.checkpoint import pack

        cfg = StudentConfig(arch="fpn", encoder="tu-mobilenetv3_small_050")
        ingredients = {"views": {"size": 64}, "pixel-loss": {"alpha": 1.0}, "text": {"words": {"prompts": ["{}"]}},
                       "train": {"lr": 0.1}}  # fmt: skip
        provenance = {"stage": "train p", "ingredients": ingredients, "teacher": {"model": "m"},
                      "split": "s", "split_hash": "h", "fingerprint": "12345678", "versions": {}}  # fmt: skip
        self.run = self.folder / "train-12345678"
        packed = pack(build_student(cfg, 4), cfg, ("a", "b"), torch.eye(4)[:2], {"provenance": provenance})
        at = Location(str(self.run))
        at.put("student.safetensors", packed)
        at.put_mark("run.json", {"provenance": provenance})
        digest = hashlib.sha256(packed).hexdigest()
        at.put_mark("complete.json", {"summary": {"images": 2}, "objects": {"student.safetensors": digest}})

    def restore(self) -> None:
        """All as it was. Raises AssertionError where something beside the artifacts changed."""
        for file in [f for f in self.root.rglob("*") if f.is_file() and f not in self.sound]:
            assert self.artifacts in file.parents, f"{file} was written"
            file.unlink()
        for file, data in self.sound.items():
            if not file.is_file() or file.read_bytes() != data:
                inside = self.artifacts in file.parents or self.root / "teacher" in file.parents
                assert inside, f"{file} was changed"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)

    def tried(self, name: str, *acts: Callable[[], object]) -> None:
        """Runs acts, each of which may refuse in one line."""
        for act in acts:
            try:
                act()
            except InputError as error:
                assert "\n" not in str(error), f"{name}: more than one line: {error}"
                self.tally[f"{name}: refused"] += 1
            else:
                self.tally[f"{name}: worked"] += 1

    # -- targets ------------------------------------------------------------------------------------------
    def read_all(self, name: str) -> None:
        """Everything that reads an artifacts folder."""
        tokens = Artifact(self.tokens.at, "tokens")
        at = str(self.artifacts)
        self.tried(
            name,
            lambda: cache_text.list_text(cache_tool.entries(at), cache_tool.links(at)),
            lambda: cache_text.show_text(cache_tool.show(at, "tokens-12345678")),
            lambda: cache_text.verify_text(cache_tool.verify(at)),
            lambda: cache_tool.collect(at, "", set(), dry=True),
            tokens.provenance,
            tokens.summary,
            tokens.ids,
            lambda: tokens.check_rows(2),
            lambda: tokens.load(list(tokens.table)),
            lambda: summarise({"tokens": tokens}, 2, ["a", "b"]),
            lambda: run_at(Location(str(self.run))).settings,
            lambda: run_at(Location(str(self.run))).summary,
            lambda: cache_tool.verify(at, repair=True),
        )

    def marks(self, data: st.DataObject) -> None:
        """A mark changed and sealed again."""
        names = ("zarr.json", "complete.json", "shards/00000/commit.json")
        at = Path(str(self.tokens.at))
        choices = [*(at / n for n in names), self.run / "complete.json", self.run / "run.json"]
        file = data.draw(st.sampled_from(choices))
        mark = unsealed(self.sound[file])
        made = data.draw(changed(mark))
        seal = isinstance(made, dict) and isinstance(made.get("attributes", {}), dict)
        file.write_bytes(sealed(made) if seal else json.dumps(made).encode())
        self.read_all("marks")

    def metadata(self, data: st.DataObject) -> None:
        """An array's metadata changed, with a commit mark that agrees."""
        shard = Path(str(self.tokens.at)) / "shards/00000"
        name = data.draw(st.sampled_from(["zarr.json", *(f"{a}/zarr.json" for a in self.tokens.table)]))
        made = json.dumps(data.draw(changed(json.loads(self.sound[shard / name])))).encode()
        (shard / name).write_bytes(made)
        mark = unsealed(self.sound[shard / "commit.json"])
        assert mark is not None
        mark["objects"][name] = [len(made), hashlib.sha256(made).hexdigest()]
        (shard / "commit.json").write_bytes(sealed(mark))
        self.read_all("metadata")

    def headers(self, data: st.DataObject) -> None:
        """A student whose header says something else."""
        from stages.parts.students.checkpoint import intact, unpack

        file = self.run / "student.safetensors"
        packed = self.sound[file]
        size = int.from_bytes(packed[:8], "little")
        header, body = json.loads(packed[8 : 8 + size]), packed[8 + size :]
        if data.draw(st.booleans()):
            header = data.draw(changed(header))
        else:
            about = json.loads(header["__metadata__"]["clip2seg"])
            about.pop("sha256")
            header["__metadata__"]["clip2seg"] = json.dumps(data.draw(changed(about)))
        text = json.dumps(header).encode()
        length = data.draw(st.one_of(st.just(len(text)), st.sampled_from([0, 1, 2**24, 2**40, 2**63])))
        file.write_bytes(length.to_bytes(8, "little") + text + body)
        made = file.read_bytes()
        self.tried("headers", lambda: unpack(made, "student"), lambda: intact(made))
        (self.run / "complete.json").unlink()
        (self.run / "run.json").unlink()
        self.read_all("headers")

    def presets(self, data: st.DataObject) -> None:
        """A preset with other values."""
        base: dict[str, Any] = {
            "data": {"layout": "voc", "vocabulary": "voc"}, "views": {"size": 64, "seed": 0},
            "teacher": {"model": "ViT-B-32", "pretrained": "openai"}, "train": {"seed": 0, "lr": 1e-3, "batch": 4},
            "mine-latent": {"windows": [2, 4]}, "student": {"arch": "fpn", "encoder": "resnet18"},
        }  # fmt: skip
        made = data.draw(changed(base))
        if not isinstance(made, dict):
            return
        lines: list[str] = []
        for table, values in made.items():
            if isinstance(values, dict):
                lines.append(f"[{json.dumps(table)}]")
                lines += [f"{json.dumps(k)} = {_toml(v)}" for k, v in values.items()]
            else:
                lines.insert(0, f"{json.dumps(table)} = {_toml(values)}")
        file = self.artifacts / "x.toml"
        file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        self.tried("presets", lambda: load_config(str(file)))

    def teachers(self, data: st.DataObject) -> None:
        """A teacher folder whose configuration says something else."""
        from stages.parts.teacher.files import read_config
        from stages.parts.teacher.settings import TeacherConfig, teacher_identity
        from stages.parts.teacher.teacher import load_teacher

        file = self.root / "teacher/open_clip_config.json"
        file.write_text(json.dumps(data.draw(changed(json.loads(self.sound[file])))))
        cfg = TeacherConfig(model=f"local-dir:{file.parent}", pretrained="")
        self.tried("teachers", lambda: read_config(file.parent), lambda: teacher_identity(cfg))
        try:
            read_config(file.parent)
        except InputError:
            return
        self.tried("teachers, built", lambda: load_teacher(cfg))


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf") if math.isinf(value) else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return '""' if value is None else json.dumps(value)


WORDS = ("refused", "worked")
TARGETS = ("marks", "metadata", "headers", "presets", "teachers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    asked = parser.parse_args()
    import logging

    logging.disable(logging.WARNING)
    folder, cases, start = tempfile.mkdtemp(prefix="clip2seg-fuzz-"), Counter[str](), time.monotonic()
    world = World(Path(folder))
    world.read_all("sound")
    assert world.tally["sound: refused"] == 0, world.tally
    from stages.parts.teacher.settings import TeacherConfig
    from stages.parts.teacher.teacher import load_teacher

    load_teacher(TeacherConfig(model=f"local-dir:{folder}/teacher", pretrained=""))  # its libraries are loaded by now
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + GIB, resource.RLIM_INFINITY))
    print(f"fuzz: seeded by {folder}; 1 GiB above {held / GIB:.1f} GiB", flush=True)

    def campaign(name: str, examples: int) -> None:
        @settings(max_examples=examples, deadline=None, database=InMemoryExampleDatabase(),
                  suppress_health_check=list(HealthCheck), print_blob=True)  # fmt: skip
        @given(st.data())
        def run(data: st.DataObject) -> None:
            cases[name] += 1
            try:
                getattr(world, name)(data)
            finally:
                world.restore()

        run()

    while time.monotonic() - start < 60 * asked.minutes:
        for name in TARGETS:
            campaign(name, 10 if name in ("headers", "teachers") else 60)
    minutes = (time.monotonic() - start) / 60
    rows = ["| input | files tried | readings refused in one line | readings that worked |", "|---|---|---|---|"]
    for name in TARGETS:
        both = [
            sum(n for k, n in world.tally.items() if k.startswith(name) and k.endswith(w))
            for w in ("refused", "worked")
        ]
        rows.append(f"| {name} | {cases[name]} | {both[0]} | {both[1]} |")
    where = f"{platform.machine()}, one of {os.cpu_count()} cores"
    rows += ["", f"{minutes:.1f} minutes on {where}: no other exception, no allocation beyond 1 GiB, no file touched "
             "beside the artifacts."]  # fmt: skip
    print("\n".join(rows))
    if asked.markdown:
        asked.markdown.write_text("\n".join(rows) + "\n")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
