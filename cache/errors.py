"""The error that says the user's input is at fault."""

from __future__ import annotations


class InputError(Exception):
    """The user's input is at fault. One line that names the file, the value and what to do; exit code 2."""
