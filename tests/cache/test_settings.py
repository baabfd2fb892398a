"""Claims about settings, fingerprints and digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from cache.digests import file_digest, fingerprint, folder_digest
from cache.errors import InputError
from cache.settings import Apart, PathSetting, Settings


class Knobs(Settings):
    """A table."""

    folder: PathSetting = ""
    shown: Annotated[int, Apart("a picture")] = 1
    count: int = Field(default=1, ge=1)
    share: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    mode: str = "a"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Knobs().count = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    "values", [{"counts": 1}, {"count": 0}, {"count": "1"}, {"count": 1.0}, {"count": True}, {"mode": 1}]
)
def test_unknown_keys_wrong_types_and_impossible_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Knobs.model_validate(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_setting_may_be_nan_or_infinite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Knobs(share=value)


def test_a_wrong_default_is_refused_as_an_input_is() -> None:
    class Wrong(Settings):
        count: int = Field(default=0, ge=1)

    with pytest.raises(ValidationError):
        Wrong()


def test_where_is_no_number() -> None:
    assert Knobs(folder="/a", shown=2).fingerprint_fields() == Knobs(folder="/b").fingerprint_fields()
    assert Knobs().fingerprint_fields() == {"count": 1, "share": 0.5, "sizes": [1, 2], "mode": "a"}
    assert json.loads(json.dumps(Knobs().fingerprint_fields())) == Knobs().fingerprint_fields()  # plain JSON types


def test_attribute_docstrings_describe_fields() -> None:
    class Told(Settings):
        count: int = 1
        """How many."""

    assert Told.model_fields["count"].description == "How many."


def test_a_fingerprint_is_a_hash_of_canonical_json() -> None:
    wanted = hashlib.sha256(b'{"a":[1,2.5,null],"b":"\\u00e9"}').hexdigest()[:8]
    assert fingerprint({"b": "é", "a": [1, 2.5, None]}) == wanted
    assert fingerprint({"b": "é", "a": (1, 2.5, None)}) == wanted


def test_different_ingredients_have_different_fingerprints() -> None:
    ingredients = [{"a": 1}, {"a": 2}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"a": None}, {"b": 1}, {"a": True}]
    assert len({fingerprint(one) for one in ingredients}) == len(ingredients)


def test_a_fingerprint_of_nan_is_an_error_of_the_program() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        fingerprint({"a": float("nan")})


def test_file_digest_is_sha256_and_names_what_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(InputError, match=r"absent: can't be read \(No such file or directory\); check the path"):
        file_digest(tmp_path / "absent")
    with pytest.raises(InputError, match="Is a directory"):
        file_digest(tmp_path)


def test_folder_digest_counts_order_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    both = folder_digest(tmp_path, ["a", "b"])
    assert both != folder_digest(tmp_path, ["b", "a"])
    (tmp_path / "b").write_bytes(b"3")
    assert both != folder_digest(tmp_path, ["a", "b"])
