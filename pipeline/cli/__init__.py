"""The command line: one file per panel of `--help`. No logic: it parses, calls, prints."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from cache.errors import InputError, one_line, without_credentials
from pipeline.cli import experiments, look, maintain, use
from pipeline.cli import pipeline as stages
from stages.parts.processes import rank_and_world
from stages.running.interrupts import Stopped, terminable


class _Interrupted(Exception):
    """Carries a KeyboardInterrupt past Typer, which would end the program with code 130 and no word."""

    def __init__(self, error: KeyboardInterrupt) -> None:
        super().__init__(str(error))
        self.stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)


class _Panels(TyperGroup):
    """Lists commands under the headings that `rich_help_panel` names, as plain text that no terminal width cuts."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise _Interrupted(error) from None

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(error) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes one section for each panel, in the order of registration."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            if not command.hidden:
                panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append(
                    (name, command.get_short_help_str(limit=formatter.width))
                )
        widest = max(len(name) for name in self.commands)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])


app = typer.Typer(
    cls=_Panels,
    help="CLIP-to-Seg distillation: inductive zero-shot segmentation from a cached CLIP teacher.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for panel in (stages, experiments, look, use, maintain):
    app.add_typer(panel.app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"clip2seg {version('clip2seg')}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...


_REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ, errno.ENXIO),
)
"""The operating system's noes to a path that the user named. Others are faults of the program."""


def main() -> None:
    """Entry point: one line and exit code 2 for bad input, 1 for anything else that fails."""
    _open_streams()
    try:
        with terminable():
            code = app(standalone_mode=False)
            sys.stdout.flush()  # what a full disk says to it is an error here, and not the interpreter's at its end
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if (said := _refusal(error)) is None:
            raise
        _fail(said)
    except (typer.Abort, KeyboardInterrupt) as error:  # before or after the command itself
        raise SystemExit(error.exit_code if isinstance(error, Stopped) else 130) from None
    except _Interrupted as error:
        if rank_and_world()[0] == 0:
            print(error.stopped, file=sys.stderr)
        raise SystemExit(error.stopped.exit_code) from None
    except Exception as error:
        # Typer's usage errors, whose class differs between its releases; their own form is several lines long.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if message.startswith("Usage:"):  # a command group alone: its help is the answer
            print(message)
            raise SystemExit(2) from None
        _fail(f"{' '.join(message.split())} See `clip2seg COMMAND --help`")
    else:
        raise SystemExit(code if isinstance(code, int) else 0)


def _open_streams() -> None:
    """Makes stdout and stderr take whatever is written, also where a service started this process without them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  it stays open to the end
        elif isinstance(stream, TextIOWrapper):  # names in a terminal or a log that knows ASCII alone are written out
            stream.reconfigure(errors="backslashreplace")


def _refusal(error: OSError) -> str | None:
    """What the user can do about an error of the operating system; None where it is a fault of the program."""
    said = (error.strerror or str(error)).lower()
    if error.errno in _REFUSALS and error.filename:
        return f"{error.filename}: {said}; name another place, or make this one usable"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{said}, for a file or for what is printed; make room and run it again: what was finished stays"
    if isinstance(error, FileNotFoundError) and not error.filename:
        if said.startswith("no usable temporary directory"):
            return f"{error.strerror}; set TMPDIR to a folder that can be written to"
        if _folder_gone():
            return "the folder that this was started in is gone; change to another one (cd)"
    return None


def _folder_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _fail(message: str) -> NoReturn:
    rank, message = rank_and_world()[0], one_line(without_credentials(message))
    if "--json" in sys.argv and rank == 0:
        with suppress(OSError):  # stdout itself may be what is full
            print(json.dumps({"error": message}))
    try:
        sys.stdout.flush()
    except OSError:  # then it leads nowhere, or the interpreter would stumble over it at its end
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    print(f"error: {message}" if rank == 0 else f"error (rank {rank}): {message}", file=sys.stderr)
    raise SystemExit(2) from None
