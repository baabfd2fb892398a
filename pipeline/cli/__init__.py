"""The command line: one file per panel of `--help`. No logic: it parses, calls, prints."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from io import TextIOWrapper
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names in a terminal or a log that knows ASCII alone are written out
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in _REFUSALS or not error.filename:
            raise
        _fail(f"{error.filename}: {os.strerror(error.errno or 0).lower()}; name another place, or make this one usable")
    except (typer.Abort, KeyboardInterrupt):  # before or after the command itself
        raise SystemExit(130) from None
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


def _fail(message: str) -> NoReturn:
    rank, message = rank_and_world()[0], one_line(without_credentials(message))
    if "--json" in sys.argv and rank == 0:
        print(json.dumps({"error": message}))
    print(f"error: {message}" if rank == 0 else f"error (rank {rank}): {message}", file=sys.stderr)
    raise SystemExit(2) from None
