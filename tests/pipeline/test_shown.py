"""Claims about links, the browser, colours, and every command that an output suggests."""

from __future__ import annotations

import re
import shlex
import sys
import webbrowser
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from cache.errors import InputError
from pipeline.cli import app
from pipeline.invocation import Invocation
from pipeline.shown import coloured, link, open_page
from pipeline.study.demo import next_steps

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tiny

VERDICTS = "good  coverage: all\nPOOR  health: 3\nfair  x\nit is good so\n  good indented"


def test_verdicts_are_coloured_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert coloured(VERDICTS) == VERDICTS
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = coloured(VERDICTS)
    assert re.findall(r"\x1b\[([0-9;]+)m(\w+)\x1b\[0m", shown) == [("32", "good"), ("1;31", "POOR"), ("33", "fair")]
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert coloured(VERDICTS) == VERDICTS


def test_a_page_is_a_link_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "a b.html"
    assert link(str(page)) == f"file://{tmp_path}/a%20b.html" and link("s3://b/x") == "s3://b/x"
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", browser)
    assert open_page(str(page)) == "" and opened == [link(str(page))]
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert f"no browser here; open {link(str(page))}" in open_page(str(page))
    assert "object store" in open_page("s3://b/report.html")


def test_what_a_stage_suggests_is_for_what_was_typed(tiny: Tiny, tmp_path: Path) -> None:
    from pipeline import run, score
    from pipeline.machine import Machine
    from pipeline.plan import Plan

    plan = Plan.open(str(tiny.preset), ("train.seed=3",), str(tmp_path))
    options = f"{tiny.preset} --artifacts {tmp_path} --set train.seed=3"
    for stage, needed in ((run.mine_latent, "extract"), (score.evaluate, "train")):
        with pytest.raises(InputError) as caught:
            stage(plan, Machine("cpu", 0))
        assert f"`clip2seg {needed} {options}`" in str(caught.value)


def suggested(text: str) -> set[str]:
    """Commands in a text: up to the end of the line, or what ends a command in a sentence."""
    return {found.strip() for found in re.findall(r"clip2seg (?:[a-z-]+ )[^`;,)\n]*", text)}


@pytest.mark.slow
def test_every_command_that_an_output_suggests_runs(tiny: Tiny, tmp_path: Path) -> None:
    """From nothing: whatever is suggested on the way is run as it stands, and what that suggests too."""

    def typed(words: list[str]) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{shlex.join(words)}: {done.exception or done.output}"
        return done.output

    preset, where = str(tiny.preset), ["--artifacts", str(tmp_path)]
    found: set[str] = set()
    for stage in ("inspect", "mine-latent", "train", "eval"):  # too early: the refusal says what to do first
        refused = CliRunner().invoke(app, [stage, preset, *where])
        assert isinstance(refused.exception, InputError)
        found |= suggested(str(refused.exception))
    assert {command.split()[1] for command in found} >= {"extract", "train"}
    for stage in ("plan", "extract", "mine-latent", "train", "eval"):
        found |= suggested(typed([stage, preset, *where]))
    for question in ("summary", "quality", "mining", "losses", "duplicates", "explore", "report"):
        found |= suggested(typed(["inspect", preset, question, *where]))
    found |= suggested(typed(["runs", *where]))
    found |= suggested(next_steps(Invocation(preset, str(tmp_path))).rpartition("  clip2seg extract voc")[0])  # no VOC
    assert len(found) >= 8
    done: set[str] = set()
    while left := sorted(found - done):
        command = left[0]
        done.add(command)
        words = [{"ID": "train00", "TEXT": "disc"}.get(word, word) for word in shlex.split(command)[1:]]
        if "--seeds" in words:  # three seeds show nothing that one doesn't
            words[words.index("--seeds") + 1] = "1"
        found |= suggested(typed(words))
