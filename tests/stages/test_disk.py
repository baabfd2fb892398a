"""Claims about bad disks: one line that says what is wrong, exit code 2, and the run goes on when it is put right."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.upkeep.cache_tools import verify

if TYPE_CHECKING:
    from tests.stages.conftest import Stages

Contents = Callable[[Path], dict[str, bytes]]
OVERRIDES = ("extract.shard=2",)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB in memory. Skips where this user may not mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def last_error(said: str) -> str:
    assert "Traceback" not in said, said
    return [line for line in said.splitlines() if line.startswith("error: ")][-1]


@pytest.mark.slow
def test_every_stage_says_that_the_disk_is_full_and_goes_on_when_there_is_room(
    in_processes: Stages, small: Path, tmp_path: Path, contents: Contents
) -> None:
    for stage, room in (("extract", "4m"), ("mine-latent", "8m"), ("train", "96m")):
        if stage != "extract":
            used = int(subprocess.check_output(["df", "--output=used", "-k", small]).split()[-1])
            remount(small, f"size={used + 8}k")
        assert in_processes.run(stage, small, *OVERRIDES) == 2, in_processes.said()
        assert "no space left on device" in last_error(in_processes.said()).lower()
        remount(small, f"size={room}")
        assert in_processes.run(stage, small, *OVERRIDES) == 0, in_processes.said()
        assert in_processes.run(stage, tmp_path / "roomy", *OVERRIDES) == 0, in_processes.said()
    assert contents(small) == contents(tmp_path / "roomy")


@pytest.mark.slow
def test_a_read_only_folder_is_read_but_not_written(in_processes: Stages, small: Path) -> None:
    remount(small, "size=8m")
    assert in_processes.run("extract", small) == 0, in_processes.said()
    remount(small, "ro")
    assert in_processes.run("extract", small) == 0  # it is complete: there is nothing to write
    assert in_processes.run("mine-latent", small) == 2
    assert last_error(in_processes.said()).endswith(
        ": can't write (read-only file system); what was computed before stays"
    )
    remount(small, "rw")
    assert in_processes.run("mine-latent", small) == 0, in_processes.said()


@pytest.mark.slow
def test_a_damaged_cache_is_refused_repaired_and_then_as_new(
    in_processes: Stages, tmp_path: Path, contents: Contents
) -> None:
    """A flipped byte, a cut file and a vanished shard: mining and training stop with the file's name."""
    for stage in ("extract", "mine-latent"):
        assert in_processes.run(stage, tmp_path, *OVERRIDES) == 0, in_processes.said()
    whole = contents(tmp_path)

    def chunk(kind: str, shard: int, array: str) -> Path:
        folder = next(tmp_path.glob(f"tiny/{kind}-*")) / f"shards/{shard:05d}"
        return next(f for f in (folder / array / "c").rglob("*") if f.is_file())

    flipped, cut, vanished = chunk("tokens", 1, "local"), chunk("latent", 2, "cells"), chunk("dense", 4, "dense")
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 4]) + flipped.read_bytes()[1:])
    assert in_processes.run("train", tmp_path, *OVERRIDES) == 2
    assert f"{flipped}: damaged; run `clip2seg cache verify --repair`" in last_error(in_processes.said())
    cut.write_bytes(cut.read_bytes()[:-3])
    vanished.unlink()
    wanted = [f"{flipped}: damaged", f"{cut}: damaged", f"{vanished}: missing"]
    assert sorted(verify(str(tmp_path))["faults"]) == sorted(w.removeprefix(f"{tmp_path}/") for w in wanted)
    verify(str(tmp_path), repair=True)
    for stage in ("extract", "mine-latent"):
        assert in_processes.run(stage, tmp_path, *OVERRIDES) == 0, in_processes.said()
    assert verify(str(tmp_path))["faults"] == []
    # The training that was refused left what it would have read, so that nothing tidies that away.
    assert {k: v for k, v in contents(tmp_path).items() if not k.endswith("/run.json")} == whole


@pytest.mark.slow
def test_a_damaged_training_state_is_refused(in_processes: Stages, tmp_path: Path) -> None:
    for stage in ("extract", "mine-latent"):
        assert in_processes.run(stage, tmp_path) == 0, in_processes.said()
    stop = "stages.train.CHECKPOINT_SECONDS = 0.0; import cache.location as l\n" + (
        "p = l.Location.put\n"
        "def put(self, name, data):\n"
        "    p(self, name, data)\n"
        "    if name == 'state.safetensors': os._exit(9)\n"
        "l.Location.put = put"
    )
    assert in_processes.run("train", tmp_path, patch=stop) == 9
    state = next(tmp_path.glob("tiny/train-*/state.safetensors"))
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    assert in_processes.run("train", tmp_path) == 2
    assert "damaged training state (its sha256 is not the one it was written with)" in last_error(in_processes.said())
    assert [f.rsplit("/", 1)[1] for f in verify(str(tmp_path), repair=True)["faults"]] == ["state.safetensors: damaged"]
    assert in_processes.run("train", tmp_path) == 0, in_processes.said()
