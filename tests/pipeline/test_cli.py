"""Claims about the command line: exit codes, one-line errors, the JSON line.

The real console script is slow to start, so most commands run in this process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline import cli

if TYPE_CHECKING:
    from tests.conftest import Tiny

STAGES = ("plan", "extract", "mine-latent", "train", "eval", "ablate")


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed `clip2seg`."""
    program = Path(sys.executable).with_name("clip2seg")
    command = [str(program)] if program.exists() else [sys.executable, "-m", "pipeline.cli"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=env, timeout=300, check=False)


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the entry point in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["clip2seg", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_help_lists_every_stage_by_its_one_word() -> None:
    done = script("--help")
    assert done.returncode == 0 and done.stderr == ""
    for stage in STAGES:
        assert re.search(rf"^\s+{stage}\b", done.stdout, re.MULTILINE), stage


def test_help_groups_commands_by_panels_and_cuts_no_line() -> None:
    group: Any = typer.main.get_command(cli.app)
    described = [*group.commands.items(), *((f"cache {n}", c) for n, c in group.commands["cache"].commands.items())]
    for name, command in described:
        short = command.get_short_help_str(limit=200)
        assert 10 < len(short) <= 50, f"{name}: {short}"
    lines = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80"}, terminal_width=80).output.splitlines()
    panels = [line.rstrip(":") for line in lines if re.fullmatch(r"[A-Z]\w+:", line)]
    assert panels == ["Options", "Pipeline", "Experiments", "Look", "Use", "Maintain"]
    listed = {line.split()[0] for line in lines if re.match(r"  [a-z]", line)}
    assert set(group.commands) <= listed
    assert not [line for line in lines[1:] if len(line) > 80 or line.endswith("...")]


def test_the_version_is_the_packages() -> None:
    done = script("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"clip2seg {version('clip2seg')}\n", "")


def test_bad_input_ends_with_one_line_and_code_2(tiny: Tiny, tmp_path: Path) -> None:
    done = script("extract", str(tiny.preset), "--artifacts", str(tmp_path), "--set", "train.batchsize=4")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: .*tiny\.toml with --set: \[train\] batchsize: unknown key; .*\n", done.stderr)


@pytest.mark.parametrize("arguments", [("extract", "no-such-preset"), ("frobnicate",), ("extract", "demo", "--colour")])
def test_with_json_an_error_is_the_last_line_of_stdout_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert main(monkeypatch, *arguments, "--json") == 2
    printed = capsys.readouterr()
    assert {"error": printed.err.removeprefix("error: ").strip()} == json.loads(printed.out)


def test_a_run_through_the_console_script_ends_with_code_0_and_a_json_line(tiny: Tiny, tmp_path: Path) -> None:
    done = script(
        "extract", str(tiny.preset), "--artifacts", str(tmp_path), "--workers", "1", "--device", "cpu", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["stage"] == "extract" and result["summary"]["views"] == 12 and not result["already_complete"]
    assert len(done.stdout.splitlines()) > 1  # the text for people comes first


def test_a_fault_of_the_program_ends_with_code_1() -> None:
    code = (
        "import sys, pipeline.cli as cli, pipeline.config\n"
        "def broken(*_): raise RuntimeError('bug')\n"
        "pipeline.config.load_config = broken\nsys.argv = ['clip2seg', 'plan']\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "RuntimeError: bug" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("extract", "--device", "gpu"), "--device gpu: choose auto, cpu or cuda"),
        (("plan", "--device", "tpu"), "--device tpu: choose auto, cpu or cuda"),
        (("extract", "--workers", "-2"), "--workers -2: give 0 or more"),
        (("plan", "--set", "train.batch"), "write table.key=value"),
        (("plan", "--data", "/nowhere/at/all"), "/nowhere/at/all: no such folder"),
        (("ablate", "--table", "7"), "--table 7: choose one of 3, 4, 5, 6"),
        (("ablate", "--seeds", "0"), "--seeds 0: give at least 1"),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    command, *flags = arguments
    code = main(monkeypatch, command, str(tiny.preset), "--artifacts", str(tmp_path), *flags)
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and words in printed.err


def test_plan_prints_a_table_and_with_json_one_object(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, "plan", str(tiny.preset), "--artifacts", str(tmp_path)) == 0
    assert capsys.readouterr().out.count("would run") == 4
    assert main(monkeypatch, "plan", str(tiny.preset), "--artifacts", str(tmp_path), "--json") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert [s["stage"] for s in json.loads(last)["stages"]] == ["extract", "mine-latent", "train", "eval"]


def test_every_stage_runs_and_speaks_json(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (str(tiny.preset), "--artifacts", str(tiny.artifacts), "--device", "cpu", "--workers", "0", "--json")
    for stage in ("extract", "mine-latent", "train", "eval"):
        assert main(monkeypatch, stage, *common) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["stage"] == stage
    assert result["report"]["scored"] == "student"


def test_eval_can_score_the_teacher_too(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.run("train")
    common = (str(tiny.preset), "--artifacts", str(tiny.artifacts), "--device", "cpu", "--workers", "0")
    assert main(monkeypatch, "eval", *common, "--score-teacher", "--json") == 0
    out = capsys.readouterr().out
    assert re.search(r"^teacher, training-free +\d", out, re.MULTILINE)
    assert json.loads(out.splitlines()[-1])["teacher"]["scored"] == "teacher, training-free"
