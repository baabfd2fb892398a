"""Claims about text that reaches a terminal: it is shown and never acts, and holds no password."""

from __future__ import annotations

import pytest

from cache.errors import one_line, printable, without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve 羊 🐑\n\ttwo", "plain, naïve 羊 🐑\n\ttwo"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("a\rb\x00c\x7f", r"a\x0db\x00c\x7f"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\U000e0041tag", r"\U000e0041tag"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_an_error_is_one_line() -> None:
    assert one_line("a\nb\tc") == r"a\nb c"


@pytest.mark.parametrize(
    "text",
    ["http://user:secret@host/x", "s3://secret@b", "x (https://a:sec/ret@h:1/y) z", '"http://:secret@h"'],
)
def test_user_and_password_leave_every_address(text: str) -> None:
    assert "secret" not in without_credentials(text) and "sec" not in without_credentials(text)
    assert "host" not in text or "host/x" in without_credentials(text)
    assert without_credentials("mail me@home, s3://bucket/x") == "mail me@home, s3://bucket/x"
