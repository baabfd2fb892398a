"""Claims about addresses: name and parent of any place, in a folder and in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import InputError
from cache.location import Location


def test_a_location_knows_its_name_and_what_lies_above_it(tmp_path: Path) -> None:
    at = Location(str(tmp_path)).child("demo").child("train-12345678")
    assert (at.name, at.parent.name, str(at.parent.parent)) == ("train-12345678", "demo", str(tmp_path))
    assert Location(str(tmp_path / "a")).name == "a"  # a folder opened without a prefix has them too
    assert str(Location(str(tmp_path / "a")).parent) == str(tmp_path)


def test_a_prefix_of_a_store_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    at = Location("s3://bucket/some").child("demo")
    assert (at.name, str(at.parent), str(at.parent.parent)) == ("demo", "s3://bucket/some", "s3://bucket")
    with pytest.raises(InputError, match="nothing lies above it"):
        _ = Location("s3://bucket").parent
