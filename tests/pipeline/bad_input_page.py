"""docs/bad-input.md, the bad-input suite's table: `python -m tests.pipeline.bad_input_page` runs it and writes it."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.pipeline.bad_input import Outcome, World, run_case
from tests.pipeline.bad_input_cases import CASES

PAGE = Path(__file__).resolve().parents[2] / "docs/bad-input.md"
WORDS = ("tried", "worked", "refused", "reported", "crashed")

HEAD = """# Bad input

Made by `python -m tests.pipeline.bad_input_page`; `pytest tests/pipeline/test_bad_input.py` runs the same cases. Each
spoils a copy of a tiny data set with finished artifacts, runs the command in that world, and looks at the exit code, at
what was printed, and at every stored byte.

{count}

- *worked*: exit code 0. Where photos or masks are odd, all four stages ran, from the photo to the scores.
- *refused*: exit code 2 and one line that names file, value and remedy; every byte of the artifacts as it was.
- *reported*: exit code 1; `data check`, `doctor` and `cache verify` exist to report what they find.
- *crashed*: a traceback, another exit code, more than one line, a lost or changed artifact, or a pickle that ran.

`.` stands for the case's own folder, `..` for the one above it.
"""
HEADS = "| what | command | outcome | what it said |\n|---|---|---|---|"
WIDTH = 220


def page(outcomes: dict[str, Outcome]) -> str:
    """The whole page."""
    found = Counter(outcome.word for outcome in outcomes.values())
    found["tried"] = len(outcomes)
    count = ", ".join(f"{found[word]} {word}" for word in WORDS)
    parts = [HEAD.format(count=f"**{count}**")]
    groups: dict[str, list[str]] = {}
    for case, outcome in outcomes.items():
        group, _, what = case.partition(": ")
        row = f"| {what} | `{outcome.command}` | {outcome.word} | {_cell(outcome.line)} |"
        groups.setdefault(group, []).append(row)
    for group, rows in groups.items():
        parts.append(f"## {group}\n\n{HEADS}\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def rows_of(text: str) -> list[tuple[str, str, str]]:
    """(case, command, outcome) of each row of the page."""
    found, group = [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif match := re.match(r"\| (.+?) \| `(.+?)` \| (\w+) \|", line):
            found.append((f"{group}: {match[1]}", match[2], match[3]))
    return found


def _cell(line: str) -> str:
    """A line of output as Markdown code that can hold anything."""
    plain = "".join(c if c.isprintable() else "?" for c in " ".join(line.split())).replace("|", "/").replace("`", "'")
    return f"`{plain[: WIDTH - 3]}...`" if len(plain) > WIDTH else f"`{plain}`" if plain else ""


def main(wanted: list[str]) -> None:
    """Runs all cases, or those whose names begin with a word of `wanted` (then the page is printed, not written)."""
    from tests.conftest import write_tiny

    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny(Path(folder) / "tiny")
        tiny.run("eval")
        outcomes = {}
        for number, (case, (expected, spoil)) in enumerate(CASES.items()):
            if wanted and not case.startswith(tuple(wanted)):
                continue
            world = World(tiny, Path(folder) / str(number))
            outcomes[case] = run_case(world, spoil(world), expected)
            if outcomes[case].complaint:
                print(f"{case}: {outcomes[case].complaint}: {outcomes[case].line}", file=sys.stderr)
    if wanted:
        print(page(outcomes))
        return
    PAGE.write_text(page(outcomes), encoding="utf-8")
    if any(outcome.complaint for outcome in outcomes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
