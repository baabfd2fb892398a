"""`clip2seg inspect PRESET concepts`: names, figures and a page on which concepts are chosen."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from pipeline.invocation import Invocation
from pipeline.shown import link
from pipeline.text import columns
from stages.parts.data.vocabulary import WORDS, word_list
from stages.running.progress import Bar

if TYPE_CHECKING:
    from pipeline.inspection.opened import Inspection
    from stages.inspect_concepts import ConceptsOf

THUMBNAIL = 104
"""Longest side of an example's picture, in pixels."""
FORMAT = 1
"""Version of the choices that the page writes and `data apply-concepts` reads."""


def concepts(of: Inspection, *, examples: int, full_labels: bool, vocabulary: str) -> dict[str, Any]:
    """Everything about the concepts, as JSON, and the page concepts.html.

    `examples`: pictures of each concept. `full_labels` (evaluation only) compares them with the hidden labels.
    """
    from stages.inspect_concepts import hidden
    from stages.parts.drawing.pages import page
    from stages.parts.scoring.naming import learn

    found = opened(of)
    seen = of.plan.vocabulary.seen
    words = word_list(vocabulary or str(WORDS))
    there, tokens = found.seen_tokens
    names = [seen[c] for c in there]
    naming = learn(words, of.words(words), found.common, names, tokens, of.cached.seen_text[there])
    if not naming.words:
        raise InputError(f"{vocabulary or WORDS.name}: the teacher knows none of its words apart; give other ones")
    rows, named = found.numbers(seen), naming.name(found.concepts.token)
    for row, one in zip(rows, named, strict=True):
        row |= {"names": [list(word) for word in one.words], "margin": one.margin, "explained": one.explained}
        row["near seen"] = one.near_seen
    result: dict[str, Any] = {
        "preset": of.plan.name,
        "membership": found.membership.at.name,
        "words": len(naming.words),
        "unusable words": naming.unusable,
        "least score": naming.least,
        "concepts": rows,
    }
    if full_labels:
        names = [[str(word) for word, _ in row["names"]] for row in rows]
        ordered = of.plan.vocabulary.ordered
        result["labels"] = hidden(found, lambda view: _masks(of, view), ordered, names)
        for row, mostly in zip(rows, result["labels"].pop("mostly"), strict=True):
            row["mostly"] = mostly
    cards = [{**row, "parts": _parts(found, row["concept"], naming)} for row in rows]
    with Bar("inspect concepts", len(cards), "concepts") as bar:
        for card in cards:
            card["examples"] = _pictures(of, found, card["concept"], examples)
            bar.advance()
    shown = {"format": FORMAT, "preset": of.plan.name, "membership": result["membership"], "concepts": cards}
    known = {"seen": list(seen), "unseen": list(of.plan.vocabulary.unseen)}
    html = page(
        "concepts.html", "concepts.js", title=f"Concepts of {of.plan.name}", preset=of.plan.name, data=shown | known
    )
    result["page"] = of.put("concepts.html", html.encode())
    return result


def opened(of: Inspection) -> ConceptsOf:
    """The concepts of the cache. Raises InputError, with the command, where there are none."""
    from stages.inspect_concepts import ConceptsOf

    for kind in ("concepts", "membership"):
        of.begun(kind, "mine-concepts")
    if of.tiers["membership"].summary() is None:
        raise InputError(f"{of.tiers['membership']}: not complete; run `{of.plan.invocation.command('mine-concepts')}`")
    return ConceptsOf(of.tiers, len(of.plan.vocabulary.seen))


def _masks(of: Inspection, name: str) -> tuple[np.ndarray, np.ndarray]:
    view = of.cached.view(name, full_labels=True)
    assert view.truth is not None and view.pseudo is not None
    return view.truth, view.pseudo


def _parts(found: ConceptsOf, concept: int, naming: Any) -> list[dict[str, Any]]:
    """What the two halves of a concept would be: regions seen of each, and names."""
    from cache.vectors import unit

    centroids, part = found.halves(concept)
    tokens = unit(found.members.token[found.members.concept == concept])
    if len(centroids) < 2:
        return []
    named = naming.name(np.stack([tokens[part == i].mean(axis=0) for i in (0, 1)]))
    return [{"regions": int((part == i).sum()), **asdict(one)} for i, one in enumerate(named)]


def _pictures(of: Inspection, found: ConceptsOf, concept: int, count: int) -> list[dict[str, Any]]:
    """Pictures of the regions that stand for a concept; which half each is in."""
    from stages.parts.drawing.figures import singled_out
    from stages.parts.scoring.explorer import jpeg, shrunk

    members = found.members
    own = np.flatnonzero(members.concept == concept)
    part = found.halves(concept)[1]
    shown = []
    for row in found.examples(concept, count):
        view, region = found.ids[members.view[row]], found.num_seen + int(members.region[row])
        image, mask = of.cached.picture(view)
        picture = jpeg(shrunk(singled_out(image, mask, region), THUMBNAIL), 70)
        half = int(part[int(np.searchsorted(own, row))])
        shown.append({"view": view, "half": half, "picture": picture})
    return shown


def concepts_text(typed: Invocation, found: dict[str, Any]) -> str:
    """The answer for a terminal."""
    rows: list[list[object]] = [["concept", "called", "score", "margin", "regions", "photos", "spread", "seen with"]]
    labelled = "labels" in found
    if labelled:
        rows[0].append("shows (evaluation)")
    for row in found["concepts"]:
        (word, score), *_ = row["names"]
        called = word if row["explained"] else f"no word explains it ({word}?)"
        called += f", near {row['near seen']}" if row["near seen"] else ""
        company = ", ".join(f"{one['class']} {100 * one['share']:.0f} %" for one in row["seen with"]) or None
        spread = None if row["spread"] is None else f"{row['spread']:.2f}"
        line = [row["concept"], called, score, f"{row['margin']:.1f}", row["regions"], row["photos"], spread, company]
        if labelled:
            mostly = row["mostly"]
            line.append(f"{mostly['class']} {100 * mostly['share']:.0f} %" if mostly else None)
        rows.append(line)
    unusable = found["unusable words"]
    lines = [
        f"{len(found['concepts'])} concepts, named by {found['words']} words"
        + (f" ({unusable} more are one to this teacher)" if unusable else "")
        + f"; a word explains a concept from a score of {found['least score']:g} on, as seen classes show it",
        "",
        columns(rows, left=2, last_left=1),
    ]
    if labelled:
        lines += ["", *_labels_text(found["labels"])]
    lines += [
        "",
        f"page: {link(found['page'])}",
        "next: choose classes on the page, save choices.json, then "
        f"`{typed.command('data apply-concepts', 'choices.json')}`",
    ]
    return "\n".join(lines)


def _labels_text(found: dict[str, Any]) -> list[str]:
    rows: list[list[object]] = [["class", "regions", "best concept", "holds", "named right", "among five"]]
    for one in found["classes"]:
        shares = [f"{100 * one[key]:.0f} %" for key in ("its share of the class", "named right", "among five")]
        rows.append([one["class"], one["regions"], one["best concept"], *shares])
    if not found["of unseen classes"]:
        return ["evaluation: no latent region shows mostly an unseen class"]
    return [
        f"evaluation: {found['of unseen classes']} of {found['regions']} latent regions show mostly an unseen class; "
        f"purity {found['purity']:.3f} (the commonest class alone {found['majority alone']:.3f}), NMI "
        f"{found['NMI']:.3f} (dealt out at random: {found['NMI by chance']:.3f}; each region its own island: "
        f"{found['NMI of islands']:.3f}, however they are dealt)",
        f"regions whose concept bears their class's name: {100 * found['named right']:.1f} %, among its five best "
        f"{100 * found['among five']:.1f} %",
        columns(rows),
    ]
