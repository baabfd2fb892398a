"""`clip2seg certify`: runs the user's own configuration on the user's own photos twice, once with everything about the
unseen classes poisoned, and compares every byte that was made.

Training must know neither the labels nor the names of unseen classes (method.md, section 0). A difference between the
two runs is a leak, wherever it is. Both runs write into a temporary folder; the artifacts of the configuration are
only read.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache.errors import InputError
from cache.location import Location
from pipeline import run
from pipeline.machine import Machine
from pipeline.plan import Plan, versions
from pipeline.shown import link
from stages.parts.data.datasets import Dataset
from stages.parts.data.images import read_mask
from stages.parts.data.layouts import Record
from stages.running.progress import Bar, say

NAME = "certificate.json"
LOOKED = 20
"""Photos that are looked through for each one wanted, to find those that show an unseen class."""
KINDS = ("tokens", "dense", "affinity", "latent")
"""Artifacts that training, or what makes them, reads."""
NONSENSE = "the names of the unseen classes: nonsense in their place"
ROTATED = "the names of the unseen classes: each bears the next one's (nonsense is all one word to this teacher)"
LIMITS = (
    "photos beyond those named, and training steps beyond those run",
    "what the teacher was trained on before this program read it",
    "what the student's first weights were trained on, where it starts from a file",
    "settings that a person chose by looking at scores of unseen classes",
)
"""What no run can show."""


def certify(plan: Plan, machine: Machine, *, photos: int = 16, steps: int = 2, out: str = "") -> dict[str, Any]:
    """Both runs, compared; writes certificate.json (sealed by its own sha256) and certificate.html; returns the JSON.

    `photos`: how many training photos are used, those first that show an unseen class. `steps`: training steps. Raises
    InputError where the configuration itself can't be run, or runs differently each time.
    """
    if photos < 2 or steps < 1:
        raise InputError(f"--photos {photos} --steps {steps}: give 2 photos and 1 step at least")
    run.draw_world(plan)
    picked, showing = _picked(plan.train_data, photos)
    with tempfile.TemporaryDirectory(prefix="clip2seg-certify-") as folder, Bar("certify", 2, "runs") as bar:
        honest = _made(_world(plan, Path(folder) / "honest", picked, steps), machine)
        bar.advance()
        stopped, names = "", NONSENSE
        try:
            poisoned = _poisoned(plan, Path(folder) / "poisoned", picked, steps, nonsense=True)
            try:
                run.extract(poisoned, machine)
            except InputError:  # a teacher of few words takes all nonsense for one word; then names change places
                poisoned, names = _poisoned(plan, Path(folder) / "rotated", picked, steps, nonsense=False), ROTATED
            other = _made(poisoned, machine, poison_text=True)
        except InputError as error:  # a NaN of an unseen class's embedding in a loss, for instance
            other, stopped = {}, str(error)
        bar.advance()
        compared = _compared(honest, other)
        if stopped or not all(row["equal"] for row in compared):
            again = _made(_world(plan, Path(folder) / "again", picked, steps), machine)
            if again != honest:
                raise InputError(
                    "certify: two runs of the same photos differ on this device, so nothing can be said of a third; "
                    "use --device cpu"
                )
    leaks = [row["what"] for row in compared if not row["equal"]]
    text = plan.ingredients["text"]["words"]
    found: dict[str, Any] = {
        "certificate": "inductive: nothing of the unseen classes reached what was compared" if not leaks else "LEAK",
        "inductive": not leaks,
        "leaks": leaks,
        "stopped": stopped,
        "preset": plan.name,
        "run": plan.address("train").name,
        "student": _digest(plan.address("train").get("student.safetensors")),
        "split": {"name": plan.vocabulary.split, "hash": plan.vocabulary.split_hash},
        "seen": list(plan.vocabulary.seen),
        "unseen": list(plan.vocabulary.unseen),
        "teacher": {"model": _teacher(plan), "identity": text.get("identity"), "licence": _licence(plan)},
        "data": {"digest": plan.train_data.digest, "photos": [record.id for record in picked]},
        "photos that show an unseen class": showing,
        "steps": steps,
        "poisoned": [
            "every mask pixel without a seen label: unseen and ignored values drawn at random",
            names,
            "the text embeddings of the unseen classes: NaN, before training",
        ],
        "compared": compared,
        "can't be shown": list(LIMITS),
        "versions": versions(),
        "device": str(machine.compute.device),
    }
    at = Location(out) if out else plan.artifacts.child("certificate")
    at.put_mark(NAME, found)
    from stages.parts.drawing.pages import page

    at.put("certificate.html", page("certificate.html", title=f"Certificate of {plan.name}", found=found).encode())
    return found | {"file": f"{at}/{NAME}", "page": f"{at}/certificate.html"}


def certificate_text(found: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    names = [row["what"] for row in found["compared"]]
    lines = [
        f"certify: {found['certificate']}",
        f"  {len(found['data']['photos'])} photos, {found['photos that show an unseen class']} of them show an unseen "
        f"class; {found['steps']} training steps",
        f"  compared, byte for byte: {', '.join(names)}",
    ]
    if found["leaks"]:
        lines.append(f"  different: {', '.join(found['leaks'])}")
    if found["stopped"]:
        lines.append(f"  the poisoned run stopped: {found['stopped']}")
    return "\n".join([*lines, f"  {found['file']}", f"  {link(found['page'])}"])


def _picked(data: Dataset, count: int) -> tuple[list[Record], int]:
    """`count` records, first those among the first that show an unseen class, in list order; how many do."""
    k, showing, rest = len(data.vocabulary.seen), list[int](), list[int]()
    for i in range(min(len(data), LOOKED * count)):
        labels = data.labels(i, "all")
        shows = bool(((labels >= k) & (labels < len(data.vocabulary.ordered))).any())
        (showing if shows else rest).append(i)
        if len(showing) == count:
            break
    chosen = sorted([*showing, *rest[: count - len(showing)]])
    if not showing:
        say("certify: no photo that was looked at shows an unseen class; pixels without a label are poisoned alone")
    return [data.records[i] for i in chosen], len(showing)


def _world(plan: Plan, folder: Path, records: Sequence[Record], steps: int, **changes: Any) -> Plan:
    """The plan on these records alone, with artifacts of its own. `changes`: of the data set."""
    made = Plan(plan.config, plan.name, str(folder / "artifacts"), plan.data_config.root)
    made.world = None  # the photos are there
    c = plan.config
    warmup = min(c.train.warmup, steps - 1)
    made.config = c.model_copy(
        update={
            "train": c.train.model_copy(update={"iterations": steps, "warmup": warmup}),
            # Latent classes take part from the first step, or a short run would not show what they do.
            "latent_embedding": c.latent_embedding.model_copy(update={"delay": 0}),
        }
    )
    made.read_instead(
        train=replace(plan.train_data, records=list(records), **changes), val=replace(plan.val_data, **changes)
    )
    made.__dict__["parent"] = plan.parent
    return made


def _poisoned(plan: Plan, folder: Path, records: Sequence[Record], steps: int, *, nonsense: bool) -> Plan:
    """`_world` with masks and names in which the unseen classes can't be recognised.

    `nonsense`: new names; otherwise each class bears the next one's.
    """
    words, random = plan.vocabulary, np.random.default_rng(0)
    value = dict(zip(words.classes, words.raw_values, strict=True))
    hidden = np.array([*(value[name] for name in words.unseen), *sorted(words.ignore)])
    (folder / "masks").mkdir(parents=True)
    changed = []
    for place, record in enumerate(records):
        raw = np.array(read_mask(record.mask, plan.data_config.max_pixels)).astype(np.int64)
        seen = np.isin(raw, [value[name] for name in words.seen])
        poison = np.where(seen, raw, random.choice(hidden, raw.shape))
        file = folder / "masks" / f"{place:05d}.png"
        Image.fromarray(poison.astype(np.uint8 if poison.max() < 256 else np.uint16)).save(file)
        changed.append(replace(record, mask=file))
    new = dict(zip(words.unseen, (*words.unseen[1:], *words.unseen[:1]), strict=True))
    if nonsense:
        new = {name: f"qz{i} {hashlib.sha256(name.encode()).hexdigest()[:6]}" for i, name in enumerate(words.unseen)}
    renamed = replace(
        words,
        classes=tuple(new.get(name, name) for name in words.classes),
        unseen=tuple(new[name] for name in words.unseen),
    )
    return _world(plan, folder, changed, steps, vocabulary=renamed)


def _made(plan: Plan, machine: Machine, *, poison_text: bool = False) -> dict[str, str]:
    """What one run makes: name of each array, tensor and curve -> sha256."""
    run.extract(plan, machine)
    text = plan.artifact("text")
    arrays = text.read(0)
    if poison_text:
        text.discard(0)
        text.write(0, [], arrays | {"unseen": np.full_like(arrays["unseen"], np.nan)}, {})
        text.finish({}, 1)
    run.make_cache(plan, machine)
    run.train(plan, machine)
    found = {"text/seen": hashlib.sha256(arrays["seen"].tobytes()).hexdigest()}
    asked = [*(("concepts", "membership") if plan.reads_concepts else ())]
    asked += ["pseudo"] if plan.reads_pseudo_labels else []
    for kind in (*KINDS, *asked):
        for shard, mark in plan.artifact(kind).marks(plan.artifact(kind).committed()):
            for name, (_, digest) in mark["objects"].items():
                array, whole = name.partition("/")[0], f"{kind}/{name.partition('/')[0]}"
                if array != "zarr.json":
                    found[whole] = hashlib.sha256(f"{found.get(whole, '')}{shard}{name}{digest}".encode()).hexdigest()
            found[f"{kind}/ids"] = hashlib.sha256(f"{found.get(f'{kind}/ids', '')}{mark['ids']}".encode()).hexdigest()
    at = plan.address("train")
    student = at.get("student.safetensors")
    assert student is not None
    found["train/student"] = _tensors(student)
    found["train/losses"] = _digest(at.get("curves.jsonl"))
    return found


def _tensors(packed: bytes) -> str:
    """sha256 of a student's tensors and of their names and shapes, without what the file says of its origin."""
    size = int.from_bytes(packed[:8], "little")
    header = json.loads(packed[8 : 8 + size])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + packed[8 + size :]).hexdigest()


def _compared(honest: Mapping[str, str], other: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"what": name, "sha256": digest, "poisoned": other.get(name, ""), "equal": other.get(name) == digest}
        for name, digest in honest.items()
    ] + [{"what": name, "sha256": "", "poisoned": other[name], "equal": False} for name in other.keys() - honest.keys()]


def _digest(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha256(data).hexdigest()


def _teacher(plan: Plan) -> str:
    """A teacher's name; of one in a folder the folder's, without the way there."""
    model = plan.config.teacher.model
    return Path(model).name if model.startswith("local-dir:") else model


def _licence(plan: Plan) -> str:
    """What a teacher's folder says of its licence; otherwise where to look."""
    model = plan.config.teacher.model
    card = Path(model.removeprefix("local-dir:")) / "README.md"
    if model.startswith("local-dir:") and card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:80]:
            if line.lower().startswith(("license:", "licence:", "- **licence**", "- **license**")):
                return line.partition(":")[2].strip(" *") or line
    return "not stated in its files; see where the teacher comes from"
