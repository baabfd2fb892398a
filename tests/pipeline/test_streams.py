"""Claims about the command line in bad company: a full disk, no stdout at all, no folder, a signal too early."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup

from pipeline import cli


class Full(io.StringIO):
    """Takes nothing, as a file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["clip2seg", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_what_is_printed_onto_a_full_disk_is_one_line_on_stderr(
    json: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(monkeypatch, "runs", "--artifacts", str(tmp_path), *json) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: no space left on device") and "make room" in said


def test_a_service_without_stdout_and_stderr_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(monkeypatch, "runs", "--artifacts", str(tmp_path)) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_a_folder_that_was_deleted_under_the_shell_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(monkeypatch, "plan", "demo") == 2
    assert "is gone; change to another one (cd)" in capsys.readouterr().err


def test_no_folder_for_temporary_files_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert main(monkeypatch, "plan", "demo", "--for", "1e3") == 2
    assert "set TMPDIR to a folder that can be written to" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_command_begins_has_its_own_exit_code(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TyperGroup.make_context

    def asked(self: TyperGroup, *args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), number)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(TyperGroup, "make_context", asked)
    assert main(monkeypatch, "runs") == code
