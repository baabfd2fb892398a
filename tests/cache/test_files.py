"""Claims about single files: written whole or not at all; a header is read within bounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache.errors import InputError
from cache.files import check_writable, write_whole
from cache.headers import LARGEST, about_at, about_of, header_of
from cache.location import Location, StoreError


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "old.png").write_bytes(b"whole")
    monkeypatch.setattr(Path, "replace", full)
    for name in ("new.png", "old.png"):
        with pytest.raises(InputError, match=rf"{name}: can't be written \(No space left on device\)"):
            write_whole(tmp_path / name, b"half")
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"whole"


def test_a_written_file_is_readable_for_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1" and (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no/x: can't be written"):
        write_whole(tmp_path / "no/x", b"1")


def headed(metadata: object) -> bytes:
    text = json.dumps({"__metadata__": metadata}).encode()
    return len(text).to_bytes(8, "little") + text


def test_what_was_written_into_a_header_is_read_back(tmp_path: Path) -> None:
    data = headed({"clip2seg": '{"format": 1}'}) + b"tensors"
    (tmp_path / "x").write_bytes(data)
    assert about_of(data) == {"format": 1} == about_at(Location(str(tmp_path)), "x")
    assert about_at(Location(str(tmp_path)), "y") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        (2**60).to_bytes(8, "little") + b"{}",
        (LARGEST + 1).to_bytes(8, "little") + b" " * 64,
        (100).to_bytes(8, "little") + b"{}",
        headed(None),
        headed([]),
        headed({"clip2seg": {}}),
        headed({"clip2seg": "[]"}),
        headed({"clip2seg": "[" * 100_000}),
        headed({"other": "{}"}),
    ],
)
def test_any_other_start_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="header"):
        about_of(data)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(StoreError, match="x: damaged"):
        about_at(Location(str(tmp_path)), "x")


def test_a_header_is_read_without_the_tensors() -> None:
    data = headed({"clip2seg": "{}"})
    assert header_of(data) == header_of(data + b"\0" * 100)


def test_a_folder_that_cannot_be_written_to_is_refused_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "new/deeper", "go elsewhere")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/new: can't be written to; go elsewhere$"):
        check_writable(tmp_path / "file/new", "go elsewhere")
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(InputError, match="new/deeper: can't be written to"):
        check_writable(tmp_path / "new/deeper", "go elsewhere")
