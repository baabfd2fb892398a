"""The optimiser's parameter groups (method.md 5)."""

from __future__ import annotations

from typing import Any

from torch import nn

from stages.parts.students.build import Student

_POSITIONAL = ("pos_embed", "cls_token", "relative_position_bias_table", "rel_pos")


def parameter_groups(
    student: Student, learning_rate: float, head_multiplier: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Up to four groups for a torch optimiser: encoder and head, each with and without weight decay.

    The head (all that isn't the encoder) learns `head_multiplier` times as fast; norms and positional terms
    (position tables, the CLS token) have no weight decay (C). Every trainable parameter is in one group. Each group
    also has a `name`.
    """
    undecayed = _undecayed(student)
    encoder = {id(p) for p in student.encoder.parameters()}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "encoder" if id(parameter) in encoder else "head"
        decay = 0.0 if name in undecayed else weight_decay
        key = f"{part}, {'no decay' if name in undecayed else 'decay'}"
        rate = learning_rate * (head_multiplier if part == "head" else 1.0)
        group = groups.setdefault(key, {"name": key, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def extra_groups(name: str, module: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """One or two groups for a module that only training needs: its norms without weight decay, the rest with it."""
    undecayed = _undecayed(module)
    kinds: dict[float, list[nn.Parameter]] = {weight_decay: [], 0.0: []}
    for path, parameter in module.named_parameters():
        kinds[0.0 if path in undecayed else weight_decay].append(parameter)
    return [
        {"name": f"{name}, {'decay' if decay else 'no decay'}", "params": p, "lr": learning_rate, "weight_decay": decay}
        for decay, p in kinds.items()
        if p
    ]


def _undecayed(net: nn.Module) -> set[str]:
    """Names of the parameters of norm layers (of torch, timm or smp) and of positional terms."""
    names = {name for name, _ in net.named_parameters() if any(term in name for term in _POSITIONAL)}
    for path, module in net.named_modules():
        if "norm" in type(module).__name__.lower():
            names.update(f"{path}.{name}" for name, _ in module.named_parameters(recurse=False))
    return names
