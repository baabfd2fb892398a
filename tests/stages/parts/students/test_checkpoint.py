"""Claims about the trained student as a file: everything comes back, and nothing else is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cache.errors import InputError
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.checkpoint import TEXT, pack, pack_state, read_header, unpack, unpack_state

CONFIG = StudentConfig(arch="unet", encoder="mobilenet_v2", weights="/somewhere/w.pth")
SEEN = ("disc", "stripes")


@pytest.fixture(scope="module")
def student() -> nn.Module:
    torch.manual_seed(0)
    return build_student(CONFIG.model_copy(update={"weights": ""}), 8).eval()


@pytest.fixture(scope="module")
def packed(student: nn.Module) -> bytes:
    return pack(student, CONFIG, SEEN, text(), {"iteration": 7, "provenance": {"split": "official"}})


def text() -> Tensor:
    return torch.nn.functional.normalize(torch.arange(16.0).view(2, 8) + 1, dim=1)


def reheaded(data: bytes, **changes: Any) -> bytes:
    """The same tensors under another header, without a checksum: as another program might write it."""
    header = {k: v for k, v in {**read_header(data, "x"), **changes}.items() if k != "sha256"}
    return save(load(data), {"clip2seg": json.dumps(header)})


def test_a_student_comes_back_with_all_that_is_needed_to_use_it(student: nn.Module, packed: bytes) -> None:
    found = unpack(packed, "file")
    assert found.seen == SEEN and torch.equal(found.text, text())
    assert found.about["iteration"] == 7 and found.about["provenance"] == {"split": "official"}
    assert not found.student.training
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(found.student(images), student(images))


def test_where_the_encoder_started_from_is_not_needed_again(packed: bytes) -> None:
    assert "weights" not in read_header(packed, "file")["student"]
    assert b"/somewhere" not in packed


def test_equal_students_are_equal_bytes(student: nn.Module, packed: bytes) -> None:
    again = pack(student, CONFIG, SEEN, text(), {"provenance": {"split": "official"}, "iteration": 7})
    assert again == packed


def test_the_header_is_read_without_the_weights(packed: bytes) -> None:
    start = packed[: 8 + int.from_bytes(packed[:8], "little")]
    assert read_header(start, "file") == read_header(packed, "file")


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 7, b"PK\x03\x04" + b"0" * 60, b"\x80\x04K\x01.", b"\xff" * 64, b'{"a": 1}', b"\2\0\0\0\0\0\0\0[]",
     b"\2\0\0\0\0\0\0\0{}", b"\5\0\0\0\0\0\0\0" + b"[" * 5],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^some/file: not a clip2seg student [^\n]*$"):
        unpack(data, "some/file")


@pytest.mark.parametrize("text_of_header", ["[]", "3", "null", '"x"', "{", "[" * 100_000])
def test_a_strange_header_is_refused_in_one_line(text_of_header: str) -> None:
    data = save({"a": torch.zeros(1)}, {"clip2seg": text_of_header})
    with pytest.raises(InputError, match=r"^file: [^\n]*$"):
        unpack(data, "file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "student format 2, this program reads 1; train it again"),
        ({"dim": 9}, "not a usable clip2seg student"),
        ({"dim": "8"}, ""),
        ({"dim": -1}, ""),
        ({"student": {"arch": "unet", "encoder": "mobilenet_v2", "hacked": 1}}, "not a usable clip2seg student"),
        ({"student": {"arch": "fpn", "encoder": "mobilenet_v2"}}, "not a usable clip2seg student"),
        ({"student": {"arch": "no_such_net", "encoder": "mobilenet_v2"}}, "no_such_net"),
        ({"student": None}, "not a usable clip2seg student"),
        ({"seen": None}, "not a usable clip2seg student"),
        ({"seen": ["disc"]}, "not a usable clip2seg student"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_in_one_line(packed: bytes, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        unpack(reheaded(packed, **change), "file")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_file_is_refused(packed: bytes) -> None:
    with pytest.raises(InputError, match="not a usable clip2seg student"):
        unpack(packed[:-100], "file")


def test_missing_text_embeddings_are_refused(packed: bytes) -> None:
    tensors = load(packed)
    del tensors[TEXT]
    stripped = save(tensors, {"clip2seg": json.dumps(read_header(packed, "x"))})
    with pytest.raises(InputError, match="not a usable clip2seg student"):
        unpack(reheaded(stripped), "file")


def test_a_changed_byte_of_a_weight_is_noticed(packed: bytes) -> None:
    changed = bytearray(packed)
    changed[-5] ^= 1
    with pytest.raises(InputError, match="its sha256 is not the one it was written with"):
        unpack(bytes(changed), "file")


# -- the state of training -----------------------------------------------------------------------------------------


def trained(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimiser = torch.optim.AdamW([{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters()}])
    for step in range(steps):
        more(net, optimiser, step)
    return net, optimiser


def more(net: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> float:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    optimiser.zero_grad()
    loss: Tensor = net(x).square().mean()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def test_a_resumed_state_goes_on_exactly() -> None:
    net, optimiser = trained(4)
    packed = pack_state({"net": net}, optimiser, {"iteration": 4})
    undisturbed = [more(net, optimiser, step) for step in range(4, 8)]
    other, its_optimiser = trained(0, seed=9)
    assert unpack_state(packed, {"net": other}, its_optimiser, "state")["iteration"] == 4
    assert [more(other, its_optimiser, step) for step in range(4, 8)] == undisturbed


def test_a_state_before_the_first_step_is_a_state() -> None:
    net, optimiser = trained(0)
    other, its_optimiser = trained(0, seed=9)
    unpack_state(pack_state({"net": net}, optimiser, {}), {"net": other}, its_optimiser, "state")
    assert more(other, its_optimiser, 0) == more(net, optimiser, 0)


@pytest.mark.parametrize("damage", [b"", b"\0" * 20, b"cut", b"other"])
def test_a_damaged_state_is_refused_with_the_way_out(damage: bytes) -> None:
    net, optimiser = trained(2)
    packed = pack_state({"net": net}, optimiser, {"iteration": 2})
    bad = {b"cut": packed[:-9], b"other": pack_state({"net": nn.Linear(2, 2)}, optimiser, {})}.get(damage, damage)
    with pytest.raises(InputError, match=r"^state: damaged training state [^\n]*; remove it to train from the start$"):
        unpack_state(bad, {"net": net}, optimiser, "state")
