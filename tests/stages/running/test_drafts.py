"""Claims about the finished parts of an unfinished shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.location import Location
from stages.running.drafts import Drafts, Part, is_draft


def part(first: int) -> Part:
    arrays = {
        "global": np.full((2, 3), first, np.float16),
        "view_seed": np.array([2**63 + 1, first], np.uint64),
        "local": np.zeros((0, 3), np.float32),
    }
    return Part([f"p{first}", f"é#{first}"], arrays, {"bad": ["x.jpg: no"]})


def test_a_draft_comes_back_as_it_was(tmp_path: Path) -> None:
    drafts = Drafts(Location(str(tmp_path)), 7)
    assert drafts.load() == {}
    drafts.save(8, part(8))
    drafts.save(0, part(0))
    found = Drafts(Location(str(tmp_path)), 7).load()
    assert sorted(found) == [0, 8] and Drafts(Location(str(tmp_path)), 8).load() == {}
    assert found[8].ids == ["p8", "é#8"] and found[8].about == {"bad": ["x.jpg: no"]}
    for name, array in part(8).arrays.items():
        assert found[8].arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found[8].arrays[name], array)
    drafts.clear()
    assert drafts.load() == {} and not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_damaged_draft_is_no_draft(tmp_path: Path) -> None:
    drafts = Drafts(Location(str(tmp_path)), 0)
    drafts.save(0, part(0))
    drafts.save(4, part(4))
    (file,) = tmp_path.rglob("draft-4")
    for spoil in (lambda d: d[:-1], lambda d: d[:50] + bytes([d[50] ^ 1]) + d[51:], lambda d: b"", lambda d: d[:32]):
        whole = file.read_bytes()
        file.write_bytes(spoil(whole))
        assert sorted(drafts.load()) == [0]
        file.write_bytes(whole)


def test_a_draft_is_known_by_its_name() -> None:
    assert is_draft("shards/00001/draft-32") and not is_draft("shards/00001/commit.json")
