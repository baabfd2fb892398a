"""What `clip2seg cache` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.text import columns, flat, set_apart, short, size, some
from pipeline.upkeep.cache_tools import Entry

_WIDE, _LONGEST = 120, 60
"""Characters of a line, and of a value."""


def list_text(found: Sequence[Entry], links: Sequence[str] = ()) -> str:
    """The addresses as a table; links that nothing follows below it."""
    rows: list[list[object]] = [["address", "state", "views", "size", "made by", "used by", "differs in"]]
    differing: dict[str, str] = {}
    for group in {(e.preset, e.kind) for e in found}:
        differing |= set_apart({e.address: e.settings for e in found if (e.preset, e.kind) == group})
    rows += [
        [
            e.address,
            e.state,
            e.views or None,
            size(e.bytes),
            f" {e.about}",
            some(e.used_by, 2) or "-",
            differing[e.address],
        ]
        for e in found
    ]
    total = f"\n{len(found)} addresses, {size(sum(e.bytes for e in found))}"
    kept = "".join(f"\n{link}: a link that is not followed" for link in links)
    return (columns(rows, left=2, last_left=3) if found else "nothing is stored") + total + kept


def show_text(found: dict[str, Any]) -> str:
    """`show` for the terminal."""
    lines = [f"{found['address']}: {found['state']}, {size(found['bytes'])}"]
    if "bytes_per_view" in found:
        lines[0] += f", {found['views']} views in {found['shards']} shards, {size(found['bytes_per_view'])} a view"
    lines.append(f"uses: {', '.join(found['uses']) or '-'}    used by: {', '.join(found['used_by']) or '-'}")
    return "\n".join([*lines, "", _provenance_text(found["provenance"])])


def _provenance_text(provenance: Mapping[str, Any]) -> str:
    """One line for each part of the provenance, its values behind one another; long values are cut."""
    # Not one mapping: provenance and ingredients both have a `teacher`, which say different things.
    parts = [(k, v) for k, v in provenance.items() if k != "ingredients"]
    parts += [(f"made from: {k}", v) for k, v in provenance.get("ingredients", {}).items()]
    wide = max((len(k) for k, _ in parts), default=0)
    lines = []
    for key, value in parts:
        pairs = flat(value) if isinstance(value, Mapping) else []
        text = ", ".join(f"{k} {short(v, _LONGEST)}" for k, v in pairs) if pairs else short(value, _LONGEST)
        lines += textwrap.wrap(
            f"{key:<{wide}}  {text}", _WIDE, subsequent_indent=" " * (wide + 2), break_on_hyphens=False
        )
    return "\n".join([*lines, "(values in full: --json)"])


def verify_text(found: dict[str, Any]) -> str:
    """`verify` for the terminal."""
    faults = found["faults"]
    lines = [f"{size(found['bytes'])} in {found['addresses']} addresses read: {len(faults) or 'no'} faults"]
    lines += [f"  {fault}" for fault in faults]
    if faults:
        lines.append(
            "taken back; run the stages again" if found["repaired"] else "--repair takes them back, for a new run"
        )
    return "\n".join(lines)


def teacher_text(found: dict[str, Any]) -> str:
    """`cache verify --encode-again` for the terminal."""
    compared = ", ".join(f"{n} {name} (lowest cosine {found['lowest'][name]})" for name, n in found["tokens"].items())
    lines = [f"{found['views']} views encoded again: {compared or 'nothing compared'}"]
    return "\n".join([*lines, *(f"  {fault}" for fault in found["faults"])])


def dropped_text(found: dict[str, Any]) -> str:
    """`drop-dense` for the terminal."""
    before, after = found["before"], found["after"]
    rows = [["", "before", "after"], *([k, size(before[k]), size(after[k])] for k in before)]
    rows.append(["all", size(sum(before.values())), size(sum(after.values()))])
    return f"{found['address']}: {size(found['freed'])} freed\n{columns(rows)}"


def collected_text(found: dict[str, Any]) -> str:
    """`gc` for the terminal."""
    names = [*found["removed"], *found["leftovers"]]
    verb = "would free" if found["dry_run"] else "freed"
    kept = [f"{link}: a link; what it names was not looked at" for link in found["links"]]
    return "\n".join([*names, *kept, f"{len(names)} things, {verb} {size(found['freed'])}"])
