"""Claims about several processes as one: the mean over them of every loss term and of its gradient is one process's.

In double precision, so that a missing factor can't hide in rounding.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from cache.errors import InputError
from stages.parts.learning import distributed
from stages.parts.learning.batches import Batch, Regions
from stages.parts.learning.distributed import (
    all_gather,
    all_gather_object,
    all_reduce_mean,
    all_reduce_sum,
    broadcast_object,
    gather_from_others,
    mean_count,
    process_group,
)
from stages.parts.learning.learner import Learner
from stages.parts.settings import DistillConfig, GeneratorConfig, PixelLossConfig
from stages.parts.students import gather_norms

pytestmark = pytest.mark.xdist_group("ranks")
D, SEEN, SIZE = 8, 2, 16
CPU = torch.device("cpu")
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "infonce": ({}, {}),
    "infonce over the batch": ({"negatives": "batch"}, {}),
    "same class attracts": ({"negatives": "batch", "same_class": "positive"}, {}),
    "what is alike masked": ({"negatives": "batch", "alike": 0.05, "bank_alike": 0.05}, {}),
    "cosine": ({"loss": "cosine"}, {}),
    "l2": ({"loss": "l2"}, {}),
    "froster": ({"loss": "froster"}, {}),
    "without distillation": ({"loss": "none"}, {"ignored_are_negatives": False}),
    "nothing labelled": ({}, {}),
    "few labels": ({}, {"unlabelled": "latent", "pseudo_weight": 0.5}),
}


class Net(nn.Module):
    """A student of stride 4 with torch's and timm's batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.norm = nn.Conv2d(3, 6, 4, stride=4), nn.BatchNorm2d(6)
        self.neck, self.act, self.head = nn.Conv2d(6, 6, 1), BatchNormAct2d(6), nn.Conv2d(6, D, 1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.neck(F.gelu(self.norm(self.encoder(images))))))
        return out


@contextmanager
def double() -> Iterator[None]:
    """Double precision, also where the code asks for single."""
    single, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = single  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)


def learner(case: str) -> Learner:
    distill, pixel = CASES[case]
    torch.manual_seed(0)
    net: Any = Net()
    text = F.normalize(torch.randn(SEEN, D, generator=torch.Generator().manual_seed(5)), dim=1)
    one = Learner(net, text, DistillConfig(**distill), GeneratorConfig(dropout=0.0), PixelLossConfig(**pixel))
    if one.distiller is not None and one.distiller.froster is not None:
        nn.init.normal_(one.distiller.froster.mlp[2].weight)  # it starts at zero: nothing behind it would learn
    return one


def batch(case: str) -> Batch:
    """Four images, the halves very unequal: many classes; few of them and one image without any label."""
    random = torch.Generator().manual_seed(1)
    masks = torch.full((4, SIZE, SIZE), 255, dtype=torch.uint8)
    regions = Regions.of([[], [], [], []])
    if case != "nothing labelled":
        masks[0, :8, :8], masks[0, :8, 8:], masks[0, 8:, :8], masks[0, 8:, 8:] = 0, 1, 2, 3
        masks[1, 2:] = 1
        masks[1, 8:] = 2
        masks[2, 4:8], masks[2, 10:12] = 2, 1
        regions = Regions.of([[0, 1, 2, 3], [1, 2], [1, 2], []])
    return Batch(
        torch.randint(0, 256, (4, 3, SIZE, SIZE), generator=random, dtype=torch.uint8),
        torch.zeros(4, 0),
        masks,
        torch.randn(4, D, generator=random),
        torch.randn(len(regions), D, generator=random),
        regions,
        labelled=(False, False, True, False) if case == "few labels" else (),  # of the first half none
        pseudo=torch.randint(0, SEEN, (4, SIZE, SIZE), generator=random).byte() if case == "few labels" else None,
    )


def found(one: Learner, sample: Batch) -> dict[str, Tensor]:
    """Every loss term of two steps, the gradient of each, and the buffers they leave behind."""
    parameters, values = dict(one.named_parameters()), {}
    for step in range(2):
        for name, term in one(sample).items():
            grads = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
            pairs = zip(parameters, grads, strict=True)
            values |= {f"{step}: {name} by {p}": torch.zeros(1) if g is None else g for p, g in pairs}
            values[f"{step}: {name}"] = term.detach()
    return values | {name: value.double() for name, value in one.named_buffers()}


def _share(rank: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    values: dict[str, Any] = {}
    with double():
        for case in CASES:
            one = learner(case)
            gather_norms(one, CPU)
            mine = found(one, batch(case).part(rank, 2))
            # An unused parameter is so in one process too; means of buffers are these buffers where they are equal.
            values[case] = {name: all_reduce_sum(value) / 2 for name, value in mine.items()}
            values[f"{case}: spread"] = max(
                float((all_reduce_sum(b.double()) / 2 - b.double()).abs().max()) for _, b in one.named_buffers()
            )
    values["calls"] = {
        "summed": all_reduce_sum(torch.tensor([rank + 1.0])),
        "averaged": all_reduce_mean({"a": torch.tensor(rank + 1.0), "b": torch.tensor(4.0)}),
        "gathered": all_gather(torch.tensor([[rank], [10 + rank]])),
        "others": gather_from_others(torch.full((rank + 1, 3), float(rank))),
        "no others": gather_from_others(torch.zeros(2 * rank, 3)),
        "agreed": broadcast_object(f"word of {rank}"),
        "told": all_gather_object({"rank": rank}),
        "count": [mean_count(torch.tensor(n)) for n in (3 * rank, 0)],
    }
    torch.save(values, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(forkserver: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [forkserver.Process(target=_share, args=(rank, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_terms_and_gradients_of_one(case: str, ranks: list[dict[str, Any]]) -> None:
    with double():
        wanted = found(learner(case), batch(case))
    assert ranks[0][case].keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            ranks[0][case][name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert ranks[0][f"{case}: spread"] == 0.0  # bank and running statistics are the same in both, to the bit


def test_what_processes_tell_each_other(ranks: list[dict[str, Any]]) -> None:
    for rank, calls in enumerate(r["calls"] for r in ranks):
        assert calls["summed"].tolist() == [3.0]
        assert {k: v.item() for k, v in calls["averaged"].items()} == {"a": 1.5, "b": 4.0}
        assert calls["gathered"].tolist() == [[0], [10], [1], [11]]
        assert calls["others"].tolist() == [[1.0 - rank] * 3] * (2 - rank)
        assert calls["no others"].shape == (2 - 2 * rank, 3)
        assert calls["agreed"] == "word of 0"
        assert calls["told"] == [{"rank": 0}, {"rank": 1}]
        assert [n.item() for n in calls["count"]] == [1.5, 0.5]  # at least 1 over all, so 0.5 each


def _member(rank: int, port: int, folder: str, attempt: int) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    for stage in range(2):
        with process_group(f"stage {stage}", CPU):
            Path(folder, f"{attempt}-{stage}-{rank}").write_text(str(all_gather_object(rank)))
            if attempt == 0:
                os._exit(1)


@pytest.mark.parametrize("late", [0, 1])
def test_restarted_processes_find_each_other_and_not_the_dead(
    late: int, forkserver: ForkServerContext, tmp_path: Path
) -> None:
    """torchrun's store outlives them; whoever is early finds in it what those before it left."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    for attempt in range(2):
        processes = {
            r: forkserver.Process(target=_member, args=(r, store.port, str(tmp_path), attempt)) for r in (0, 1)
        }
        processes[1 - late].start()
        time.sleep(attempt)
        processes[late].start()
        for process in processes.values():
            process.join(300)
            assert process.exitcode == 1 - attempt
    said = {f.name: f.read_text() for f in tmp_path.glob("1-*")}
    assert said == dict.fromkeys(("1-0-0", "1-0-1", "1-1-0", "1-1-1"), "[0, 1]")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "ncclRemoteError: A call failed possibly due to a remote process exiting prematurely.",
            "is gone; torchrun says",
        ),
        ("ncclInternalError: Internal check failed.\nLast error:\nNet : Connection closed by remote peer", "is gone"),
        (
            "NCCL error in: NCCLUtils.cpp:77, unhandled system error, NCCL version 2.27.7\nncclSystemError: System "
            "call failed.\nLast error:\nError while creating shared memory segment /dev/shm/nccl-a (size 9637888)\n",
            r"talk to each other \(Error while creating shared memory segment.*docker run --shm-size",
        ),
    ],
)
def test_a_fault_of_nccl_is_told_from_a_process_that_is_gone(
    said: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(distributed, "_store", lambda: dist.HashStore())  # type: ignore[attr-defined]
    monkeypatch.setattr(distributed, "_word", lambda *_: "word")

    def fails(*_: object, **__: object) -> None:
        raise dist.DistBackendError(said)

    monkeypatch.setattr(dist, "init_process_group", fails)
    with pytest.raises(InputError, match=f"^runs/a: .*{meant}") as caught, process_group("runs/a", CPU):
        pass
    assert "\n" not in str(caught.value)


def test_a_process_alone_is_told_what_it_says() -> None:
    rows = torch.ones(2, 3)
    assert all_reduce_sum(rows) is rows and all_gather(rows) is rows and gather_from_others(rows).shape == (0, 3)
    assert (
        broadcast_object("a") == "a" and all_gather_object("a") == ["a"] and all_reduce_mean({"a": rows})["a"] is rows
    )
    assert mean_count(torch.tensor(0)).item() == 1.0
