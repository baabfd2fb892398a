"""Documentation made from the code's own tables.

`python -m pipeline.reference > docs/presets.md` writes the settings; `python -m pipeline.reference cache` prints the
table of arrays of docs/cache-format.md.
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
import types
import typing
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cache.schema import ARTIFACTS, TOKEN
from cache.settings import PathMark, Settings
from pipeline.config import Config, shipped, table_type

HEAD = """# Presets: every setting

Made by `python -m pipeline.reference > docs/presets.md` from the classes that own the settings.

A preset is a TOML file. `extends = "NAME"` starts from another one, and `--set table.key=value` overrides one setting
on the command line. Shipped:
{shipped}.

Unknown tables and keys, wrong types and impossible values are refused. A setting marked *location* only says where
something lies: what is found there enters the fingerprint by its digest, the path does not. P: the paper says so; R:
recovered from its tables; C: the closest public code does so; D: our default.
"""


def markdown() -> str:
    """The whole page."""
    parts = [HEAD.format(shipped=textwrap.fill(", ".join(f"`{name}`" for name in shipped()), 118))]
    for name, field in Config.model_fields.items():
        owner = table_type(name)
        about = " ".join(inspect.cleandoc(owner.__doc__ or "").splitlines()[0].split())
        rows = "\n".join(_row(key, f) for key, f in owner.model_fields.items())
        parts.append(
            f"## [{field.alias}]\n\n{about}\n\n| key | values | default | meaning |\n|---|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def cache_tables() -> str:
    """The table of arrays of docs/cache-format.md."""
    rows = ["| artifact | array | type | shape | meaning |", "|---|---|---|---|---|"]
    for kind, table in ARTIFACTS.items():
        for name, array in table.items():
            dtype = "float16 or float32" if array.dtype == TOKEN else array.dtype
            row = " One chunk a view." if array.by_row else ""
            rows.append(f"| `{kind}` | `{name}` | {dtype} | [{', '.join(array.dims)}] | {array.about}.{row} |")
    return "\n".join(rows) + "\n"


def _row(key: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{json.dumps(_default(field))}`"
    where = " *Location.*" if any(isinstance(m, PathMark) for m in field.metadata) else ""
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{key}` | {_values(field).replace('|', chr(92) + '|')} | {default} | {meaning}{where} |"


def _default(field: FieldInfo) -> Any:
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    return (
        value.model_dump(mode="json")
        if isinstance(value, Settings)
        else list(value)
        if isinstance(value, tuple)
        else value
    )


def _values(field: FieldInfo) -> str:
    signs = {Ge: "≥ {0.ge}", Gt: "> {0.gt}", Le: "≤ {0.le}", Lt: "< {0.lt}", MultipleOf: "multiple of {0.multiple_of}"}
    limits = [text.format(m) for m in field.metadata for kind, text in signs.items() if isinstance(m, kind)]
    return ", ".join([_type(field.annotation), *limits])


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(a)}`" for a in arguments)
    if origin in (tuple, list):
        inside = [a for a in arguments if a is not Ellipsis]
        return (
            f"list of {_type(inside[0])}"
            if Ellipsis in arguments or origin is list
            else (f"[{', '.join(map(_type, inside))}]")
        )
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    names = {int: "integer", float: "number", str: "text", bool: "true, false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


if __name__ == "__main__":
    print(cache_tables() if sys.argv[1:] == ["cache"] else markdown(), end="")
