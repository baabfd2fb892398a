"""One optimiser step: AdamW, warm-up and poly decay (method.md section 5), mixed precision, several processes."""

from __future__ import annotations

import copy
import hashlib
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from stages.parts.learning.batches import Batch
from stages.parts.learning.learner import Learner
from stages.parts.learning.schedule import lr_factor
from stages.parts.processes import rank_and_world
from stages.parts.settings import TrainConfig
from stages.parts.students import Student, extra_groups, fastest_layout, gather_norms, parameter_groups


def make_optimiser(learner: Learner, cfg: TrainConfig) -> torch.optim.AdamW:
    """AdamW; the head and what only training needs learn `head_lr_multiplier` times as fast; no decay on norms.

    Biases are decayed, as in the public code.
    """
    groups = parameter_groups(learner.student, cfg.lr, cfg.head_lr_multiplier, cfg.weight_decay)
    for name, module in learner.extras().items():
        factor = learner.generator.cfg.lr_multiplier if module is learner.generator else 1.0
        groups += extra_groups(name, module, cfg.lr * cfg.head_lr_multiplier * factor, cfg.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, fused=True)  # one pass over the weights instead of a dozen


class Trainer:
    """Takes one optimiser step at a time; with several processes, on the mean of their gradients."""

    def __init__(
        self,
        cfg: TrainConfig,
        learner: Learner,
        optimiser: torch.optim.Optimizer,
        device: torch.device,
        *,
        compiled: bool = False,
    ) -> None:
        """`compiled`: student and pixel loss by torch.compile."""
        self.cfg, self.learner, self.optimiser, self.device = cfg, learner, optimiser, device
        # Kernels lie as the images do; otherwise every step would convert them back and forth.
        learner.layout = fastest_layout(learner, device)
        learner.to(memory_format=learner.layout)
        self.average: Student | None = copy.deepcopy(learner.student).requires_grad_(False) if cfg.ema else None
        self.dtype = autocast_dtype(cfg.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.rank, world = rank_and_world()
        self.shared: DistributedDataParallel | None = None
        if world > 1:
            gather_norms(learner, device)
            # Depthwise and 1x1 kernels have ambiguous strides; DDP then copies a few bytes.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self.shared = DistributedDataParallel(learner)
        self.forward: nn.Module = self.shared or learner
        if compiled:
            learner.compile_parts(student=True)

    def step(self, iteration: int, batch: Batch) -> dict[str, torch.Tensor]:
        """Takes step `iteration` on this process's share of a batch; returns the loss terms (detached, on device)."""
        cfg = self.cfg
        torch.manual_seed(stream(cfg.seed, f"step of {self.rank}" if self.rank else "step", iteration))
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(iteration, cfg.iterations, cfg.warmup, cfg.poly_power)
        self.learner.train()
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        for part in range(cfg.grad_accumulation_steps):
            with self._silent(part):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    terms = self.forward(batch.part(part, cfg.grad_accumulation_steps), iteration)
                self.scaler.scale(terms["total"] / cfg.grad_accumulation_steps).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / cfg.grad_accumulation_steps
        if cfg.max_grad_norm:
            self.scaler.unscale_(self.optimiser)
            clip_grad_norm_(self.learner.parameters(), cfg.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            _follow(self.average, self.learner.student, min(cfg.ema, (1 + iteration) / (10 + iteration)))
        return sums

    def steps_taken(self) -> int:
        """Steps the optimiser has taken; fp16's scaler leaves out those whose gradients overflow. Waits for a GPU."""
        return max((int(state["step"]) for state in self.optimiser.state.values()), default=0)

    @property
    def student(self) -> Student:
        """The student that is kept: the moving average where there is one."""
        return self.average or self.learner.student

    def modules(self) -> dict[str, nn.Module]:
        """All that a resumed run needs besides the optimiser."""
        average: dict[str, nn.Module] = {} if self.average is None else {"average": self.average}
        return {"learner": self.learner, **average}

    def _silent(self, part: int) -> AbstractContextManager[None]:
        """Gradients are reduced once a step, with its last part."""
        if self.shared is None or part + 1 == self.cfg.grad_accumulation_steps:
            return nullcontext()
        silent: AbstractContextManager[None] = self.shared.no_sync()
        return silent


@torch.no_grad()
def _follow(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * net, weights and running statistics; counts are copied."""
    own, new = average.state_dict(), net.state_dict()
    floats = [name for name, value in own.items() if value.is_floating_point()]
    torch._foreach_lerp_([own[n] for n in floats], [new[n] for n in floats], 1 - decay)
    for name in own.keys() - set(floats):
        own[name].copy_(new[name])


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The student's arithmetic; None is float32."""
    if precision == "auto":
        # A T4 or a V100 would only imitate bf16, several times slower than float32.
        able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if able else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def stream(seed: int, name: str, number: int) -> int:
    """The seed of one source of randomness at one point: a hash, so that no two sources share numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()[:7], "big")
