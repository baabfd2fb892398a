"""Presets: strict TOML composed of the stages' own settings.

A preset is a shipped name (`voc`) or a path to a TOML file. `extends = "voc"` starts from another preset and
states only what differs. Tables are named as the stages are (`[mine-latent]`); a path that begins with `./`,
`../` or `local-dir:` is relative to the file that says it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ConfigDict, Field, ValidationError

from cache.errors import InputError, nearest
from cache.settings import PathMark, Settings
from stages.parts.data.datasets import DataConfig
from stages.parts.data.views import ViewsConfig
from stages.parts.settings import (
    AffinityConfig,
    ConceptsConfig,
    DistillConfig,
    EvaluateConfig,
    ExtractConfig,
    GeneratorConfig,
    MiningConfig,
    PixelLossConfig,
    PseudoLabelConfig,
    RefineConfig,
    TrainConfig,
    WorldConfig,
)
from stages.parts.students import StudentConfig
from stages.parts.teacher.settings import TeacherConfig

PRESETS = Path(__file__).parent / "presets"

RENAMED = {
    "distill": {"bank": "bank_size", "scope": "negatives"},
    "train": {
        "head_lr": "head_lr_multiplier",
        "power": "poly_power",
        "accumulate": "grad_accumulation_steps",
        "clip_gradient": "max_grad_norm",
    },
}
"""Table -> keys of version 0.1 and what they are called now."""


class Config(Settings):
    """All tables of a preset. Each is documented where it is owned."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True)

    data: DataConfig
    demo_world: WorldConfig | None = None
    """Generate this demo world as the data set (the `demo` preset)."""
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    affinity: AffinityConfig = Field(default_factory=AffinityConfig)
    extract: ExtractConfig = Field(default_factory=ExtractConfig)
    refine: RefineConfig = Field(default_factory=RefineConfig)
    mine_latent: MiningConfig = Field(default_factory=MiningConfig)
    mine_concepts: ConceptsConfig = Field(default_factory=ConceptsConfig)
    pseudo_label: PseudoLabelConfig = Field(default_factory=PseudoLabelConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    latent_embedding: GeneratorConfig = Field(default_factory=GeneratorConfig)
    pixel_loss: PixelLossConfig = Field(default_factory=PixelLossConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvaluateConfig = Field(default_factory=EvaluateConfig)


def shipped() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(p.stem for p in PRESETS.glob("*.toml"))


def load_config(preset: str, overrides: Iterable[str] = ()) -> Config:
    """The settings of a preset with `table.key=value` overrides applied (values as in TOML).

    Raises InputError that names file, table, key and the known keys.
    """
    path = _find(preset)
    tables, where = _read(path), str(path)
    for override in overrides:
        _override(tables, override)
        where = f"{path} with --set"
    return _validate(tables, where)


def as_toml(config: Config) -> str:
    """All settings, defaults and overrides too, as a preset that may lie anywhere: its paths are absolute."""
    tables = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, table in tables.items():
        for key in table.keys() & table_type(name.replace("-", "_")).marked(PathMark):
            at = Path(table[key])
            # A word like "imagenet" may be a folder's name too.
            if table[key] and (at.is_file() or (key in ("root", "parent", "reuse") and at.is_dir())):
                table[key] = str(at.resolve())
    return tomli_w.dumps(tables)


def preset_name(preset: str) -> str:
    """The folder name of a preset under `artifacts/`. Raises InputError for one that would be another folder."""
    name = Path(preset).stem
    if not name.strip("."):
        raise InputError(f"preset {preset!r}: its name is only dots; rename the file")
    return name


def _find(preset: str) -> Path:
    path = Path(preset) if preset.endswith(".toml") else PRESETS / f"{preset}.toml"
    if not path.is_file():
        files = [str(p) for p in path.parent.glob("*.toml")] if preset.endswith(".toml") else shipped()
        close = nearest(str(path) if preset.endswith(".toml") else preset, files)
        raise InputError(f"preset {preset!r}: no such file or shipped preset{close}; shipped: {', '.join(shipped())}")
    return path


def _read(path: Path, visited: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = path.resolve()
    if path in visited:
        raise InputError(f"{path}: `extends` goes in a circle")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as TOML ({error}); correct that line") from error
    base = tables.pop("extends", None)
    if base is not None and not isinstance(base, str):
        raise InputError(f"{path}: extends = {base!r} must be a preset's name or path")
    tables = _resolved(tables, path.parent)
    if base is None:
        return tables
    parent = path.parent / base if base.endswith(".toml") else _find(base)
    return _merged(_read(parent, (*visited, path)), tables)


def _resolved(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {k: _resolved(v, folder) for k, v in value.items()}
    if isinstance(value, str) and value.startswith("local-dir:"):
        return f"local-dir:{(folder / value.removeprefix('local-dir:')).resolve()}"
    if isinstance(value, str) and value.startswith(("./", "../")):
        return str((folder / value).resolve())
    return value


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(base[k], over[k])
        for k in base.keys() & over.keys()
        if isinstance(base[k], dict) and isinstance(over[k], dict)
    }
    return {**base, **over, **both}


def _override(tables: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    table, dot, key = name.strip().rpartition(".")
    if not (equals and dot and table and key):
        raise InputError(f"--set {override!r}: write table.key=value, for example --set train.batch=8")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    section = tables.setdefault(table.replace("_", "-"), {})
    if not isinstance(section, dict):
        raise InputError(f"--set {override!r}: {table} is not a table")
    section[key] = _resolved(value, Path.cwd())


def _validate(tables: dict[str, Any], where: str) -> Config:
    try:
        text = json.dumps(tables)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: a value is not a number, string, boolean or list ({error})") from error
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{where}: {_explained(error)}") from error


def _explained(error: ValidationError) -> str:
    first, more = error.errors(include_url=False)[0], error.error_count() - 1
    loc = [str(p) for p in first["loc"]]
    table, keys = loc[0], loc[1:]
    field = next((n for n, f in Config.model_fields.items() if table in (n, f.alias)), None)
    if field is None:
        known = [str(f.alias) for f in Config.model_fields.values()]
        return f"[{table}]: unknown table{nearest(table, known)}; known tables: {', '.join(known)}"
    if first["type"] == "extra_forbidden":
        owner, new = table_type(field), RENAMED.get(field, {}).get(".".join(keys))
        if new is not None:
            return f"[{table}] {'.'.join(keys)}: is called {new} now; rename it"
        close = nearest(keys[-1], owner.model_fields)
        return f"[{table}] {'.'.join(keys)}: unknown key{close}; known keys: {', '.join(owner.model_fields)}"
    # A table that is missing or contradicts itself has no single value to show.
    key = f" {'.'.join(keys)}" if keys else ""
    value = f" = {repr(first['input'])[:80]}" if keys and first["type"] != "missing" else ""
    rest = f" (and {more} more)" if more else ""
    return f"[{table}]{key}{value}: {first['msg'].removeprefix('Value error, ')}{rest}"


def table_type(field: str) -> type[Settings]:
    """The settings class of a table."""
    annotation: Any = Config.model_fields[field].annotation
    options = [a for a in getattr(annotation, "__args__", (annotation,)) if a is not type(None)]
    found: type[Settings] = options[0]
    return found
