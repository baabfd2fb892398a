"""The trained student as bytes: safetensors with everything that is needed to use it, and nothing that runs code.

The header carries the student's settings, the seen classes, their text embeddings' origin, split hash, teacher
and training settings; a mismatch is refused at load, not scored near zero.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cache.errors import InputError, first_line
from cache.headers import KEY, about_of, check_about
from stages.parts.students import StudentConfig, build_student

FORMAT = 1
TEXT = "text.seen"
"""Name of the seen classes' text embeddings [K_s, D] among the tensors."""
MORE = "text.more"
"""Name of the text embeddings [K_m, D] of the classes that an exported student knows beyond the seen ones."""


@dataclass(frozen=True)
class Checkpoint:
    """A student with its seen classes: `text` A_s [K_s, D]; `about` says where it comes from (JSON).

    An exported student may know `more` names, with embeddings `more_text` [K_m, D]; a training run writes none.
    """

    student: nn.Module
    seen: tuple[str, ...]
    text: Tensor
    about: dict[str, Any]
    more: tuple[str, ...] = ()
    more_text: Tensor | None = None


def pack(
    student: nn.Module,
    cfg: StudentConfig,
    seen: tuple[str, ...],
    text: Tensor,
    about: dict[str, Any],
    more: tuple[tuple[str, ...], Tensor] | None = None,
) -> bytes:
    """Checkpoint -> bytes of a safetensors file. `more`: names beyond the seen ones with their embeddings."""
    tensors = {f"student.{k}": v.detach().cpu().contiguous() for k, v in student.state_dict().items()}
    tensors[TEXT] = text.detach().cpu().contiguous()
    header = {
        "format": FORMAT,
        "student": cfg.fingerprint_fields(),
        "seen": list(seen),
        "dim": int(text.shape[1]),
        **about,
    }
    if more is not None and more[0]:
        header["more"], tensors[MORE] = list(more[0]), more[1].detach().cpu().contiguous()
    return _saved(tensors, header)


def unpack(data: bytes, where: str) -> Checkpoint:
    """Bytes -> Checkpoint, in eval mode. Raises InputError that names `where` for anything but such a file."""
    header = read_header(data, where)
    try:
        tensors = _loaded(data)
        # A file from elsewhere must not make us read or download other weights: it brings its own.
        settings = {k: v for k, v in header["student"].items() if k != "weights"}
        cfg = StudentConfig.model_validate_json(json.dumps(settings))
        _check_tensors(cfg, header["dim"], {k: v.shape for k, v in tensors.items()})
        student = build_student(cfg, header["dim"])
        weights = {k.removeprefix("student."): v for k, v in tensors.items() if k.startswith("student.")}
        student.load_state_dict(weights)
        seen, more = tuple(header["seen"]), tuple(header.get("more", ()))
        _check_shapes(tensors, seen, more, header["dim"])
        return Checkpoint(student.eval(), seen, tensors[TEXT], header, more, tensors.get(MORE))
    except (InputError, SafetensorError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = first_line(error)[:200]
        raise InputError(
            f"{where}: not a usable clip2seg student ({reason}); train it again or name another file"
        ) from error


def _check_tensors(cfg: StudentConfig, dim: int, held: dict[str, torch.Size]) -> None:
    """Raises ValueError unless the file's tensors are those of the network that it names.

    A header of a few bytes may name a network of many GB; here its parameters are made without memory and compared
    with what the file holds, so that no more is ever allocated than lies there.
    """
    with _Shapes():
        wanted = {f"student.{k}": v.shape for k, v in build_student(cfg, dim).state_dict().items()}
    found = {k: shape for k, shape in held.items() if k.startswith("student.")}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            ours, theirs = (list(s) if s is not None else "none" for s in (wanted.get(name), found.get(name)))
            raise ValueError(f"its network {cfg.arch} + {cfg.encoder} has {name} {ours}, the file {theirs}")


class _Shapes(TorchFunctionMode):
    """New tensors have a shape and no memory; what is computed from numbers (`linspace`, `arange`) stays real."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full):
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _check_shapes(tensors: dict[str, Tensor], seen: tuple[str, ...], more: tuple[str, ...], dim: int) -> None:
    for name, names in ((TEXT, seen), *(((MORE, more),) if more else ())):
        if not all(isinstance(n, str) for n in names) or tensors[name].shape != (len(names), dim):
            raise ValueError(f"{name} doesn't fit its {len(names)} names")
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{name} isn't finite")


def read_header(data: bytes, where: str) -> dict[str, Any]:
    """What a checkpoint says of itself, without its weights."""
    try:
        header = about_of(data)
    except ValueError as error:
        raise InputError(f"{where}: not a clip2seg student (.safetensors written by `clip2seg train`)") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{where}: student format {header.get('format')}, this program reads {FORMAT}; train it again")
    try:
        return check_about(header)
    except ValueError as error:
        raise InputError(
            f"{where}: not a usable clip2seg student ({error}); train it again or name another file"
        ) from error


def pack_state(modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer, about: dict[str, Any]) -> bytes:
    """Everything else that training needs to go on exactly: modules and optimiser as safetensors."""
    tensors = {f"{n}.{k}": v.detach().cpu().contiguous() for n, m in modules.items() for k, v in m.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v).cpu().contiguous() for k, v in state.items()}
    return _saved(tensors, about)


def unpack_state(
    data: bytes, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer, where: str
) -> dict[str, Any]:
    """Puts a packed state back; returns what was said with it."""
    try:
        tensors, about = _loaded(data), about_of(data)
        for name, module in modules.items():
            module.load_state_dict(
                {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        for parameter, own in optimiser.state.items():
            # A fused step takes moments in memory as the parameter lies there; a file holds them row by row.
            own |= {k: torch.empty_like(parameter).copy_(v) for k, v in own.items() if v.shape == parameter.shape}
    except (SafetensorError, KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        reason = first_line(error)[:200]
        raise InputError(f"{where}: damaged training state ({reason}); remove it to train from the start") from error
    return about


def intact(data: bytes) -> bool:
    """Whether a file is, bit for bit, the tensors and words that `pack` or `pack_state` were given."""
    try:
        return bool(_loaded(data))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return False


def _saved(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """safetensors with its own checksum, which the format lacks: a flipped bit would be trained on in silence."""
    seal = {"sha256": _digest(tensors, json.dumps(about, sort_keys=True))}
    return save(tensors, {KEY: json.dumps({**about, **seal}, sort_keys=True)})


def _loaded(data: bytes) -> dict[str, Tensor]:
    """The tensors of a file. Raises ValueError where they, or what is said of them, are not what was saved."""
    tensors = load(data)
    about = about_of(data)
    seal = about.pop("sha256", None)
    if seal is not None and seal != _digest(tensors, json.dumps(about, sort_keys=True)):
        raise ValueError("its sha256 is not the one it was written with")
    return tensors


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
