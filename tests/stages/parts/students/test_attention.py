"""Claims about SegFormer's attention by the fused kernel: smp's own sums, in every student that has it."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention

from stages.parts.students import StudentConfig, build_student
from stages.parts.students.attention import FusedAttention, fuse_attention


@pytest.mark.parametrize("reduction", [1, 4])
def test_the_fused_kernel_takes_smps_sums_forward_and_backward(reduction: int) -> None:
    torch.manual_seed(0)
    plain = Attention(32, num_heads=4, qkv_bias=True, sr_ratio=reduction).double()
    fused = copy.deepcopy(plain)
    fuse_attention(fused)
    assert type(fused) is FusedAttention
    found = []
    for net in (plain, fused):
        x = torch.randn(2, 8 * 12, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = net(x, 8, 12)
        out.square().sum().backward()
        found.append([out, x.grad, *(p.grad for p in net.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_dropout_of_weights_is_for_training_alone() -> None:
    torch.manual_seed(0)
    net = Attention(32, num_heads=4, attn_drop=0.5)
    fuse_attention(net)
    x = torch.randn(1, 16, 32)
    assert not torch.equal(net(x, 4, 4), net(x, 4, 4))
    net.eval()
    assert torch.equal(net(x, 4, 4), net(x, 4, 4))


@pytest.mark.parametrize("arch", ["segformer", "fpn"])
def test_students_on_mit_use_it_and_keep_smps_names(arch: str) -> None:
    student = build_student(StudentConfig(arch=arch, encoder="mit_b0"), 8)
    kinds = [type(m) for m in student.modules() if isinstance(m, Attention)]
    assert kinds and set(kinds) == {FusedAttention}
    assert list(student.encoder.state_dict()) == list(smp.encoders.get_encoder("mit_b0", weights=None).state_dict())
