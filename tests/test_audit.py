"""Claims about `.ci/audit.py`: it fails for a known advisory alone, never hangs, and never calls silence safety."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[1] / ".ci/audit.py"


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str, *faults: str) -> dict[str, Any]:
    """As pip-audit 2.10 prints it."""
    vulns = [{"id": f, "fix_versions": ["2.0"], "aliases": [], "description": ""} for f in faults]
    return {"name": name, "version": "1.0", "vulns": vulns}


SKIPPED = {"name": "z", "skip_reason": "Dependency not found on PyPI and could not be audited: z (1.0)"}


@pytest.mark.parametrize(
    ("dependencies", "code", "words"),
    [
        ([package("a"), package("b")], 0, "no known advisory in 2 packages"),
        ([package("a"), SKIPPED], 0, "no known advisory in 1 packages; 1 are not on PyPI and were NOT audited"),
        ([SKIPPED, SKIPPED], 0, "NOT AUDITED: the index knows advisories of none of the 2 packages"),
        ([package("a", "PYSEC-2026-1"), SKIPPED], 1, "a 1.0: PYSEC-2026-1, fixed in 2.0\n1 known advisories in 1"),
    ],
)
def test_only_a_known_advisory_fails(audit: Any, dependencies: list[Any], code: int, words: str) -> None:
    found, said = audit.verdict(json.dumps({"dependencies": dependencies, "fixes": []}), "")
    assert found == code and said.startswith(words)


def test_a_service_out_of_reach_is_reported_and_is_no_failure(audit: Any) -> None:
    assert audit.verdict("", "Traceback\nConnectionError: no route\n") == (
        0,
        "NOT AUDITED: pip-audit has no answer (ConnectionError: no route)",
    )
    assert audit.verdict("[]", "")[1].startswith("NOT AUDITED")


def test_a_service_that_does_not_answer_is_given_up(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert audit.main((sys.executable, "-c", "import time; time.sleep(600)"), limit=1.0) == 0
    assert time.monotonic() - start < 60
    assert capsys.readouterr().out == "audit: NOT AUDITED: no answer within 1 s\n"


def test_without_pip_audit_it_says_so(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main((sys.executable, "-m", "no_such_module_here")) == 0
    assert "NOT AUDITED" in capsys.readouterr().out
