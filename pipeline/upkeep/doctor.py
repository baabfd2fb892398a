"""`clip2seg doctor`: what this machine has, what will be slow, what is missing; each finding with its remedy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.errors import InputError

Level = Literal["ok", "note", "fault"]
_MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
_WRITTEN = 64 * 2**20
_SLOW_DISK = 100.0
_LITTLE_DISK = 20.0
_LITTLE_SHM = 2**30
"""Bytes: four loader processes with two batches of sixteen crops of 512 pixels each take some 400 MB."""
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `note`: works, but slow or limited; `fault`: something will fail."""

    level: Level
    topic: str
    what: str
    remedy: str = ""


def examine(preset: str = "", data: str = "", artifacts: str = "artifacts") -> list[Finding]:
    """Looks at everything. Raises InputError for an unknown preset; all else becomes a finding."""
    config = None
    if preset:
        from pipeline.config import load_config

        config = load_config(preset)
    found = [
        *_python(),
        *_packages(),
        *_torch(),
        *_faiss(),
        *_processor(),
        *_shared_memory(),
        *_disk(artifacts),
        *_optional(),
    ]
    if config is not None:
        found += [*_teacher(config), *_weights(config), *_data(config, data)]
    return found


def doctor_text(findings: list[Finding]) -> str:
    """Findings as lines, remedies below them, the worst counted at the end."""
    width = max(len(f.topic) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{_MARKS[f.level]} {f.topic:<{width}}  {f.what}")
        if f.remedy:
            lines.append(f"{'':5} {'':<{width}}  -> {f.remedy}")
    faults, notes = (sum(f.level == level for f in findings) for level in ("fault", "note"))
    lines.append(f"{faults} faults, {notes} notes")
    return "\n".join(lines)


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    yield Finding("ok" if good else "fault", "python", version, "" if good else "install Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    """Every dependency against the range that the package itself declares."""
    from packaging.requirements import Requirement

    try:
        wanted = importlib.metadata.requires("clip2seg") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("fault", "packages", "clip2seg is not installed", "pip install --editable .")
        return
    outside, versions = [], []
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            outside.append(f"{requirement.name} is missing")
            continue
        versions.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            outside.append(f"{requirement.name} {version} is outside {requirement.specifier}")
    for line in outside:
        yield Finding("note" if "outside" in line else "fault", "packages", line, "pip install --upgrade --editable .")
    if not outside:
        yield Finding("ok", "packages", f"{len(versions)} dependencies, all within their ranges")


def _torch() -> Iterator[Finding]:
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        yield Finding("fault", "torch", f"torch and torchvision don't load together ({reason})", _PAIR)
        return
    wanted = next((r for r in importlib.metadata.requires("torchvision") or [] if re.match(r"torch\b", r)), "")
    pinned = re.search(r"==\s*([\d.]+)", wanted)
    version = torch.__version__.split("+")[0]
    if pinned and not version.startswith(pinned[1]):
        what = f"torchvision {torchvision.__version__} was built for torch {pinned[1]}, this is {version}"
        yield Finding("fault", "torch", what, _PAIR)
    else:
        yield Finding("ok", "torch", f"{torch.__version__} with torchvision {torchvision.__version__}, a matching pair")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built} and sees no GPU" if built else "torch is a CPU build"
        yield Finding("note", "gpu", f"none: {why}", "demo and small presets run on CPU; train the paper's on a GPU")
        return
    from stages.running.compute import FREE_IT, gpu_problem

    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
        if problem := gpu_problem(torch.device("cuda", index)):
            yield Finding("fault", "gpu", f"{index}: {name} can't compute ({problem})", FREE_IT)
            continue
        small = memory < 10 * 2**30
        remedy = "use train.grad_accumulation_steps=4 and a smaller extract.batch" if small else ""
        yield Finding("note" if small else "ok", "gpu", f"{index}: {name}, {memory / 2**30:.0f} GiB", remedy)


_PAIR = "pip install --upgrade torch torchvision  (one command: pip picks the pair)"


def _faiss() -> Iterator[Finding]:
    try:
        from stages.parts.mining.clustering import gpus
    except ImportError as error:
        yield Finding(
            "fault", "faiss", f"can't be imported ({error})", "pip install faiss-gpu (Linux x86-64) or faiss-cpu"
        )
        return
    import torch

    if count := gpus():
        yield Finding("ok", "faiss", f"mine-latent clusters on the GPU: faiss sees {count} (--kmeans cpu: not there)")
    elif torch.cuda.is_available():
        what = "mine-latent clusters on the CPU, some milliseconds an image and core: faiss sees no GPU, torch does"
        yield Finding("note", "faiss", what, "pip install faiss-gpu (Linux x86-64) instead of faiss-cpu")
    else:
        yield Finding("ok", "faiss", "mine-latent clusters on the CPU: there is no GPU")


def _processor() -> Iterator[Finding]:
    from stages.running.compute import cores

    threads, count = os.environ.get("OMP_NUM_THREADS", ""), cores()
    what = f"{count} cores, {platform.machine()}" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    slow = count < 4
    remedy = "few loader processes: a fast GPU will wait for images" if slow else ""
    yield Finding("note" if slow else "ok", "processor", what, remedy)


def _shared_memory() -> Iterator[Finding]:
    """What /dev/shm holds, through which loader processes hand over batches; Linux alone has it."""
    if not SHM.is_dir():
        return
    total = shutil.disk_usage(SHM).total
    small = total < _LITTLE_SHM
    remedy = "loader processes may not fit: `docker run --shm-size=8g`, or --workers 0" if small else ""
    yield Finding("note" if small else "ok", "memory", f"{SHM} holds {total / 2**20:.0f} MiB", remedy)


def _disk(artifacts: str) -> Iterator[Finding]:
    if "://" in artifacts:
        yield Finding("note", "disk", f"{artifacts.split('?')[0]}: an object store; not measured")
        return
    folder = Path(artifacts).expanduser()
    while not folder.is_dir():
        folder = folder.resolve().parent
    free = shutil.disk_usage(folder).free / 2**30
    low = free < _LITTLE_DISK
    yield Finding(
        "note" if low else "ok",
        "disk",
        f"{free:.0f} GiB free at {folder}; dense tokens take 1 MiB a view at 32x32x512 (VOC 11 GB, COCO-Stuff 124 GB)",
        "give --artifacts another disk, or set extract.store_dense=false" if low else "",
    )
    try:
        speed = _write_speed(folder)
    except OSError as error:
        yield Finding(
            "fault", "disk", f"{folder}: can't be written ({error.strerror})", "give --artifacts another folder"
        )
        return
    slow = speed < _SLOW_DISK
    remedy = "extract will wait for the disk: give --artifacts a local one" if slow else ""
    yield Finding("note" if slow else "ok", "disk", f"writes {speed:.0f} MiB/s (64 MiB, flushed)", remedy)


def _write_speed(folder: Path) -> float:
    block = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clip2seg-doctor-") as file:
        start = time.perf_counter()
        for _ in range(_WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN / 2**20 / (time.perf_counter() - start)


_EXTRAS = {
    "export to ONNX": (("onnx", "onnxscript", "onnxruntime"), "pip install onnx onnxscript onnxruntime"),
    "predict on videos": (("av",), "pip install av"),
    "push to the hub": (("huggingface_hub",), "pip install huggingface_hub"),
}


def _optional() -> Iterator[Finding]:
    from importlib.util import find_spec

    for what, (modules, remedy) in _EXTRAS.items():
        missing = [m for m in modules if find_spec(m) is None]
        if missing:
            yield Finding("note", "optional", f"{what}: {', '.join(missing)} missing", remedy)
        else:
            yield Finding("ok", "optional", f"{what}: {', '.join(modules)}")


def _teacher(config: object) -> Iterator[Finding]:
    from pipeline.config import Config
    from stages.parts.teacher.models import weights_at_hand
    from stages.parts.teacher.settings import teacher_identity

    assert isinstance(config, Config)
    teacher = config.teacher
    try:
        identity = teacher_identity(teacher)
        at_hand = weights_at_hand(teacher)
    except InputError as error:
        yield Finding("fault", "teacher", str(error), "put the files there, or set teacher.model")
        return
    name = f"{teacher.model} {teacher.pretrained}".strip()
    digest = ", ".join(f"{key} {value[:16]}" for key, value in identity.items() if key != "text")
    if at_hand is None:
        yield Finding("ok", "teacher", f"{name}: files present, sha256 {digest}")
    elif at_hand:
        yield Finding("ok", "teacher", f"{name}: in the download cache")
    else:
        remedy = "`clip2seg extract` fetches them once; without a network set teacher.pretrained to a local file"
        yield Finding("note", "teacher", f"{name}: weights are not on this machine", remedy)


def _weights(config: object) -> Iterator[Finding]:
    from pipeline.config import Config
    from stages.parts.students import DOWNLOAD, weights_digest

    assert isinstance(config, Config)
    student = config.student
    name = f"{student.arch} + {student.encoder}"
    try:
        digest = weights_digest(student)
    except InputError as error:
        yield Finding("fault", "student", str(error), "put the file there, or set student.weights")
        return
    if digest == "":
        yield Finding("note", "student", f"{name} starts from random weights", "set student.weights: scores gain much")
    elif digest == DOWNLOAD:
        yield Finding("note", "student", f"{name}: ImageNet weights are downloaded", "a local file works offline")
    else:
        yield Finding("ok", "student", f"{name}: {student.weights}, sha256 {digest[:16]}")


def _data(config: object, data: str) -> Iterator[Finding]:
    from pipeline.config import Config
    from stages.parts.data.datasets import locate_subset

    assert isinstance(config, Config)
    chosen = config.data.model_copy(update={"root": data}) if data else config.data
    if not chosen.root:
        drawn = config.demo_world is not None
        what = "the demo world is drawn when it is needed" if drawn else "no data folder"
        yield Finding("ok" if drawn else "fault", "data", what, "" if drawn else "give --data FOLDER")
        return
    try:
        parts = [locate_subset(chosen, subset) for subset in ("train", "val")]
    except InputError as error:
        yield Finding("fault", "data", str(error), "see `clip2seg data check`")
        return
    missing = [line for part in parts for line in part.missing]
    if missing:
        yield Finding("fault", "data", f"{missing[0]} ({len(missing)} files missing)", "restore them")
    else:
        yield Finding("ok", "data", f"{chosen.root}: {parts[0].listed} training, {parts[1].listed} evaluation images")
