#!/usr/bin/env python3
"""Asks for known advisories on the installed packages: `python .ci/audit.py`. Exit code 1 only for a known advisory.

pip-audit asks PyPI, over a network. Where it can't (no network, a mirror without advisories, no pip-audit) nothing was
audited: that is said, and is no failure, so that the other checks can run offline. It never takes longer than LIMIT.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

LIMIT = 120.0
"""Seconds after which a service that doesn't answer is given up."""
COMMAND = (sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner=off", "--format=json")


def verdict(stdout: str, stderr: str) -> tuple[int, str]:
    """Exit code and words for what pip-audit printed; its own exit code is 1 for an advisory and for a failure."""
    try:
        found: list[dict[str, Any]] = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = next((line for line in reversed(stderr.splitlines()) if line.strip()), "it printed nothing")
        return 0, f"NOT AUDITED: pip-audit has no answer ({reason[:200]})"
    known = [one for one in found if "skip_reason" not in one]
    lines = [
        f"{one['name']} {one['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no release'}"
        for one in known
        for fault in one["vulns"]
    ]
    if lines:
        return 1, "\n".join([*lines, f"{len(lines)} known advisories in {len(known)} packages"])
    if not known:
        return 0, f"NOT AUDITED: the index knows advisories of none of the {len(found)} packages"
    left = f"; {len(found) - len(known)} are not on PyPI and were NOT audited" if len(known) < len(found) else ""
    return 0, f"no known advisory in {len(known)} packages{left}"


def main(command: tuple[str, ...] = COMMAND, limit: float = LIMIT) -> int:
    """Runs pip-audit within `limit` seconds and prints the verdict."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        code, words = verdict(done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        code, words = 0, f"NOT AUDITED: no answer within {limit:.0f} s"
    print(f"audit: {words}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
