"""Claims about `inspect mining --write`: the threshold that fits replaces one value of a preset and nothing else."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from pipeline.cli import main
from pipeline.inspection.written import fitting, with_value, write_threshold

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tiny


def rows(*medians: float, unannotated: float = 0.9) -> list[dict[str, float]]:
    return [
        {"threshold": 0.7 + 0.05 * i, "median": median, "unannotated": unannotated} for i, median in enumerate(medians)
    ]


def test_the_middle_of_the_aim_is_chosen_and_what_fits_stays() -> None:
    assert fitting(rows(1, 2, 4, 9), 0.9) == pytest.approx(0.8)
    assert fitting(rows(3, 4, 5, 9), 0.7) == 0.7
    assert fitting(rows(2, 7, 9), 0.7) is None
    assert fitting(rows(2, 7, 9, unannotated=0.2), 0.9) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[mine-latent]\nmerge_threshold = 0.9  # why\n", "[mine-latent]\nmerge_threshold = 0.8  # why\n"),
        (
            "[mine-latent] # x\nwindows = [2]\n[eval]\n",
            "[mine-latent] # x\nmerge_threshold = 0.8\nwindows = [2]\n[eval]\n",
        ),
        ("# own\n[data]\nroot = 'x'\n", "# own\n[data]\nroot = 'x'\n\n[mine-latent]\nmerge_threshold = 0.8\n"),
    ],
)
def test_one_value_changes_and_comments_stay(before: str, after: str) -> None:
    assert with_value(before, 0.8) == after
    assert tomllib.loads(after)["mine-latent"]["merge_threshold"] == 0.8


def test_what_cannot_be_told_is_left_to_the_user(tmp_path: Path) -> None:
    assert with_value("mine-latent = { merge_threshold = 0.9 }\n", 0.8) is None
    file = tmp_path / "own.toml"
    file.write_text("mine-latent = { merge_threshold = 0.9 }\n")
    for preset, message in (("voc", "shipped preset"), (str(file), "can't be changed line by line")):
        with pytest.raises(InputError, match=message):
            write_threshold(preset, rows(1, 2, 4, 9), 0.9)
    with pytest.raises(InputError, match="no threshold gives"):
        write_threshold(str(file), rows(9, 9), 0.7)
    assert file.read_text() == "mine-latent = { merge_threshold = 0.9 }\n" and len([*tmp_path.iterdir()]) == 1


def test_the_command_writes_and_keeps_the_earlier_file(fresh_tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_tiny.run("extract")
    monkeypatch.chdir(fresh_tiny.root)
    monkeypatch.setattr("stages.inspect.mine", lambda dense, share, cfg: _cells(cfg.merge_threshold))
    monkeypatch.setattr("sys.argv", ["clip2seg", "inspect", "tiny.toml", "mining", "--write"])
    before = fresh_tiny.preset.read_text()
    with pytest.raises(SystemExit, match="0"):
        main()
    assert tomllib.loads(fresh_tiny.preset.read_text())["mine-latent"]["merge_threshold"] == 0.8
    assert (fresh_tiny.root / "tiny.toml.bak").read_text() == before
    monkeypatch.setattr("sys.argv", ["clip2seg", "inspect", "tiny.toml", "quality", "--write"])
    with pytest.raises(SystemExit, match="2"):
        main()


def _cells(threshold: float) -> object:
    import numpy as np

    # One latent class at 0.7, and two more with each step.
    return np.arange(64).reshape(8, 8) % (1 + round((threshold - 0.7) * 20) * 2)
