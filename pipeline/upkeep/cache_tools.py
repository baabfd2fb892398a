"""`clip2seg cache`: what lies under an artifacts folder, what uses it, whether it is whole; and making room."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.claims import Claim, holder
from cache.errors import InputError
from cache.headers import check_about, provenance_at
from cache.location import LARGEST, Location, StoreError, unsealed
from cache.marks import MARK_BYTES
from cache.schema import ARTIFACTS
from cache.store import Artifact
from pipeline.ingredients import called, spelled_out
from pipeline.plan import Plan
from pipeline.text import flat
from stages.running.drafts import is_draft
from stages.running.progress import Bar

_KINDS = (
    "tokens", "dense", "affinity", "latent", "concepts", "membership", "pseudo", "text",
    "train", "online", "eval", "teacher",
)  # fmt: skip
"""Kinds of addresses, each after those that it reads."""
_NAME = re.compile(rf"({'|'.join(_KINDS)})-([0-9a-f]{{8}})(\.zarr)?")


@dataclass(frozen=True)
class Entry:
    """One address: `name` below its preset's folder; `uses`, `used_by`: names beside it, others as preset/name."""

    preset: str
    name: str
    kind: str
    state: str
    views: int
    bytes: int
    about: str
    uses: tuple[str, ...] = ()
    used_by: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What a cache artifact, and what it reads, was made with, as flat keys."""

    @property
    def address(self) -> str:
        """Preset and name, as the other commands take them."""
        return f"{self.preset}/{self.name}"

    @property
    def users(self) -> list[str]:
        """The addresses of what uses it."""
        return [name if "/" in name else f"{self.preset}/{name}" for name in self.used_by]


def entries(artifacts: str, preset: str = "") -> list[Entry]:
    """All addresses under an artifacts folder, or of one preset in it, with what they use and are used by anywhere."""
    root = Location(artifacts)
    places = {
        (folder, name): root.child(folder).child(name)
        for folder in root.children()
        for name in root.child(folder).children()
        if _kind(name)
    }
    made = {key: _made_from(place, _kind(key[1])) for key, place in places.items()}
    tokens = [about.get("ingredients", {}) for (_, name), about in made.items() if _kind(name) == "tokens"]
    names = {key: called(about.get("ingredients", {}), tokens) for key, about in made.items()}
    known = {name: of for own in names.values() for name, of in own.items()}
    uses = {key: _used(key, made, names) for key in made}
    users: dict[tuple[str, str], list[tuple[str, str]]] = {key: [] for key in made}
    for key, used in uses.items():
        for other in used:
            users[other].append(key)
    return [
        replace(
            _entry(place, *key),
            uses=tuple(_beside(key, other) for other in uses[key]),
            used_by=tuple(_beside(key, other) for other in users[key]),
            settings=dict(flat(spelled_out(made[key].get("ingredients", {}), known)))
            if _kind(key[1]) in ARTIFACTS
            else {},
        )
        for key, place in places.items()
        if preset in ("", key[0])
    ]


def _beside(key: tuple[str, str], other: tuple[str, str]) -> str:
    """How an address is called from another one: by its name, with its preset where that is another."""
    return other[1] if other[0] == key[0] else "/".join(other)


def _used(
    key: tuple[str, str], made: dict[tuple[str, str], dict[str, Any]], names: dict[tuple[str, str], dict[str, Any]]
) -> list[tuple[str, str]]:
    """The addresses among `made` ((preset, name) -> provenance) that one was made from.

    Ingredients name what they read by the fingerprint of its ingredients, the schema apart; a run's text embeddings
    by their words; an evaluation its run. A preset finds what lies in its own folder first. `names`: what each is
    called in the ingredients of others.
    """
    own, kind = made[key], _kind(key[1])
    found = [other for other, about in made.items() if _reads(own, kind, other[1], about, names[other])]
    beside = {name for folder, name in found if folder == key[0]}
    return [other for other in found if other[0] == key[0] or other[1] not in beside]


def _reads(own: dict[str, Any], kind: str, name: str, other: dict[str, Any], names: dict[str, Any]) -> bool:
    ingredients, theirs, their_kind = own.get("ingredients", {}), other.get("ingredients", {}), _kind(name)
    named = ingredients.get(their_kind)
    if their_kind == "text" and kind in ("pseudo", "train", "online"):
        return _same_text(ingredients.get("text"), theirs)
    if theirs and named and their_kind in ("tokens", "dense", "affinity", "latent", "concepts", "membership", "pseudo"):
        return named in names
    return own.get("run") == name


def links(artifacts: str, preset: str = "") -> list[str]:
    """Links below an artifacts folder that nothing follows: none to a folder, none out of it, none to nothing."""
    return Location(artifacts).child(preset).links()


def find(artifacts: str, address: str) -> tuple[Location, Entry]:
    """The one address that is meant by `preset/name`, `name`, its first letters, or a path ending so."""
    return _found(artifacts, address, entries(artifacts))


def _found(artifacts: str, address: str, every: Sequence[Entry]) -> tuple[Location, Entry]:
    wanted = address.rstrip("/").removesuffix(".zarr").split("/")
    if not wanted[-1]:  # it would fit every name
        raise InputError(f"address {address!r}: name one; `clip2seg cache list` shows the addresses")
    hits = [e for e in every if e.name.startswith(wanted[-1]) and (len(wanted) == 1 or e.preset == wanted[-2])]
    if len(hits) != 1:
        what = ", ".join(e.address for e in hits[:5]) or "nothing"
        raise InputError(f"{address}: {what} of that name under {artifacts}; `clip2seg cache list` shows the addresses")
    return Location(artifacts).child(hits[0].preset).child(hits[0].name), hits[0]


def show(artifacts: str, address: str) -> dict[str, Any]:
    """All that an address says of itself."""
    at, entry = find(artifacts, address)
    result: dict[str, Any] = vars(entry) | {"address": str(at), "provenance": _provenance(at, entry.kind)}
    if entry.kind in ARTIFACTS:
        artifact = Artifact(at, entry.kind)
        committed = artifact.committed()
        result["shards"] = len(committed)
        result["summary"] = artifact.summary()
        if entry.views:
            result["bytes_per_view"] = round(entry.bytes / entry.views, 1)
    return result


def remove(artifacts: str, addresses: Sequence[str], *, force: bool) -> dict[str, Any]:
    """Deletes addresses, what uses others first. Raises InputError, and deletes none, where something else uses one of
    them (unless `force`) or a process writes it."""
    every = entries(artifacts)
    found = {entry.address: (at, entry) for at, entry in (_found(artifacts, each, every) for each in addresses)}
    for at, entry in found.values():
        others = [user for name, user in zip(entry.users, entry.used_by, strict=True) if name not in found]
        if others and not force:
            raise InputError(f"{at}: used by {', '.join(others)}; name them too, or give --force")
        if (writer := _writer(at)) is not None:
            raise InputError(f"{at}: {writer} is writing it; stop it first")
    order = sorted(found.values(), key=lambda pair: -_KINDS.index(pair[1].kind))
    for at, _ in order:
        at.delete_all()
    return {"removed": [entry.address for _, entry in order], "freed": sum(entry.bytes for _, entry in order)}


def collect(artifacts: str, preset: str, keep: set[str] | None, *, dry: bool) -> dict[str, Any]:
    """Removes what dead processes left: half-written files, claims, uncommitted shards.

    `keep`: also the cache artifacts that neither a run uses nor are named here (addresses of the preset's plan).
    """
    root, junk, gone, freed = Location(artifacts), [], [], 0
    every = entries(artifacts)
    for entry in every:
        if preset not in ("", entry.preset):
            continue
        at = root.child(entry.preset).child(entry.name)
        if _writer(at) is not None:
            continue
        if keep is not None and entry.name not in keep and entry.kind in ARTIFACTS and not _serves_a_run(entry, every):
            gone.append(entry.address)
            freed += entry.bytes
            if not dry:
                at.delete_all()
            continue
        for name, count in _leftovers(at, entry.kind):
            junk.append(f"{entry.address}/{name}")
            freed += count
            if not dry:
                at.delete(name)
        for file in at.staged():
            junk.append(f"{entry.address}/{file.name}")
            freed += file.stat().st_size
            if not dry:
                file.unlink(missing_ok=True)
    kept = links(artifacts, preset)
    return {"dry_run": dry, "leftovers": junk, "removed": gone, "freed": freed, "links": kept}


def verify(artifacts: str, preset: str = "", *, repair: bool = False) -> dict[str, Any]:
    """Reads every byte of everything and compares it with its checksum.

    `repair`: what is damaged is taken back, so that its stage makes it anew; nothing whole is touched.
    """
    root, faults = Location(artifacts), []
    found = entries(artifacts, preset)
    with Bar("verify", len(found), "addresses") as bar:
        for entry in found:
            at = root.child(entry.preset).child(entry.name)
            check = _artifact_faults if entry.kind in ARTIFACTS else _run_faults
            faults += [f"{entry.address}/{fault}" for fault in check(at, entry.kind, repair)]
            bar.advance()
    faults += [f"{link}: a link that is not followed; move what it names there" for link in links(artifacts, preset)]
    return {"addresses": len(found), "bytes": sum(e.bytes for e in found), "faults": faults, "repaired": repair}


def drop_dense(plan: Plan) -> dict[str, Any]:
    """Deletes the dense tier of a plan. Training never reads it; mining computes again what it needs of it."""
    artifact = plan.artifact("dense")
    artifact.provenance()
    if (writer := _writer(artifact.at)) is not None:
        raise InputError(f"{artifact}: {writer} is writing it; stop it first")
    kinds = ("tokens", "latent", "dense")
    before = {kind: sum(plan.address(kind).names().values()) for kind in kinds}
    freed = artifact.drop()
    after = {kind: sum(plan.address(kind).names().values()) for kind in kinds}
    return {"address": str(artifact), "before": before, "after": after, "freed": freed}


# -- one address ---------------------------------------------------------------------------------------------


def _kind(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match[1] if match else ""


def _entry(at: Location, preset: str, name: str) -> Entry:
    kind, total = _kind(name), sum(at.names().values())
    made = _made_from(at, kind)
    about = " ".join(filter(None, [_short(made.get("teacher", {}).get("model", "")), made.get("split", "")]))
    try:
        state, views = _state(at, kind)
    except InputError as error:
        state, views = f"refused ({str(error).split(': ', 1)[-1].split(';')[0]})", 0
    if (writer := _writer(at)) is not None:
        state = f"being written by {writer}"
    return Entry(preset, name, kind, state, views, total, about)


def _made_from(at: Location, kind: str) -> dict[str, Any]:
    """`_provenance`, or nothing where it is damaged: a list shows what it can."""
    try:
        return _provenance(at, kind)
    except InputError:
        return {}


def _same_text(trained: dict[str, Any] | None, text: dict[str, Any]) -> bool:
    return bool(
        trained
        and trained.get("words") == text.get("words")
        and trained.get("seen") == text.get("classes", [])[: text.get("seen", 0)]
    )


def _provenance(at: Location, kind: str) -> dict[str, Any]:
    if kind in ARTIFACTS:
        return Artifact(at, kind).provenance()
    if kind in ("train", "online"):
        return provenance_at(at)
    report = at.get_mark("report.json") or {}
    run = str(report.get("run", "")).rstrip("/").rpartition("/")[2]
    return {"run": run, "split": report.get("split", "")} if run else {"split": report.get("split", "")}


def _state(at: Location, kind: str) -> tuple[str, int]:
    if kind not in ARTIFACTS:
        return ("complete" if at.get_mark("complete.json") is not None else "begun"), 0
    artifact = Artifact(at, kind)
    shards = artifact.committed()
    views = sum(len(mark["ids"]) for _, mark in artifact.marks(shards))
    if artifact.summary() is not None:
        return "complete", views
    return ("dropped" if artifact.dropped() else f"{len(shards)} shards"), views


def _writer(at: Location) -> Claim | None:
    """A live process that writes somewhere below an address."""
    claims = (name for name in at.names() if name.endswith("claim.json"))
    return next((found for name in claims if (found := holder(at, name)) is not None), None)


def _leftovers(at: Location, kind: str) -> Iterator[tuple[str, int]]:
    """Objects of uncommitted shards, drafts, and claims of dead processes."""
    sizes = at.names()
    whole = {name.rsplit("/", 1)[0] for name in sizes if name.endswith("/commit.json")}
    for name, count in sizes.items():
        shard = "/".join(name.split("/")[:2])
        loose = kind in ARTIFACTS and re.fullmatch(r"shards/[0-9]+", shard) is not None and shard not in whole
        # A run that was killed between its last mark and the end has no use for the state that it could go on from.
        spent = name == "state.safetensors" and kind in ("train", "online") and "complete.json" in sizes
        if loose or spent or is_draft(name) or name.endswith("claim.json"):
            yield name, count


def _serves_a_run(entry: Entry, every: list[Entry]) -> bool:
    by_name = {e.address: e for e in every}
    return any(e.kind in ("train", "online") or _serves_a_run(e, every) for e in map(by_name.__getitem__, entry.users))


def _artifact_faults(at: Location, kind: str, repair: bool) -> Iterator[str]:
    artifact = Artifact(at, kind)
    damaged = artifact.mark_faults()
    yield from damaged
    try:
        shards = artifact.committed() if damaged else artifact.shards()
        if not damaged:
            artifact.provenance()
    except InputError as error:  # another schema version: nothing to repair, something to rebuild
        yield str(error)
        return
    if repair and damaged:
        for name in {d.split(": ")[0] for d in damaged} | {"complete.json"}:
            at.delete(name)
    for shard in shards:
        found = artifact.faults(shard)
        yield from found
        if found and repair:
            artifact.discard(shard)


def _run_faults(at: Location, kind: str, repair: bool) -> Iterator[str]:
    """What is wrong with a run or an evaluation: its sealed marks, the files that these name, the training state."""
    from stages.parts.students.checkpoint import intact

    bad: dict[str, str] = {}
    marks: dict[str, dict[str, Any]] = {}
    for name in ("complete.json", "run.json", "report.json", "confusion.json", "bias_curve.json"):
        data = _readable(at, name, MARK_BYTES)
        mark = None if data is None else unsealed(data)
        if mark is not None:
            marks[name] = mark
        elif data is not None:
            bad[name] = "damaged"
    try:
        check_about(marks.get("run.json", {}))
    except ValueError:
        bad["run.json"] = "damaged"
    objects = marks.get("complete.json", {}).get("objects", {})
    for name, digest in objects.items() if isinstance(objects, dict) else ():
        held = _readable(at, name) if _plain(name) else None
        if held is None or hashlib.sha256(held).hexdigest() != digest:
            bad[name] = "missing" if held is None else "damaged"
    for name in ("report.json", "confusion.json") if "complete.json" in marks and kind in ("eval", "teacher") else ():
        if name not in marks:
            bad.setdefault(name, "missing")
    state = _readable(at, "state.safetensors")
    if state is not None and not intact(state):
        bad["state.safetensors"] = "damaged"
    yield from (f"{name}: {what}" for name, what in bad.items())
    if repair and bad:
        for name in {"complete.json", *filter(_plain, bad)}:
            at.delete(name)


def _readable(at: Location, name: str, most: int = LARGEST) -> bytes | None:
    """An object's bytes; none where it is a link out of here, a pipe or larger than it may be; None: not there."""
    try:
        return at.get(name, most)
    except StoreError:
        return b""


def _plain(name: str) -> bool:
    """Whether a name in a mark is one of this folder."""
    return "/" not in name and "\\" not in name and name not in ("", ".", "..")


def _short(model: str) -> str:
    return Path(model.removeprefix("local-dir:")).name if model.startswith("local-dir:") else model
