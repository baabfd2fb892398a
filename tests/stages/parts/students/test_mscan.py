from __future__ import annotations

import json
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from stages.parts.students.mscan import MSCAN_ENCODERS, MSCANEncoder

FACTS = Path(__file__).resolve().parents[3] / "facts"


def build(name: str, depth: int = 5) -> MSCANEncoder:
    return MSCANEncoder(**MSCAN_ENCODERS[name]["params"], depth=depth)


@pytest.mark.parametrize("name", ["mscan_t", "mscan_b"])
def test_names_and_shapes_are_the_public_checkpoints(name):
    with torch.device("meta"):
        own = {k: list(v.shape) for k, v in build(name).state_dict().items()}
    assert own == json.loads((FACTS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "millions"), [("mscan_t", 4.2), ("mscan_s", 14.0), ("mscan_b", 26.8), ("mscan_l", 45.2)]
)
def test_the_four_sizes_have_the_papers_parameters_once_a_classifier_is_added(name, millions):
    with torch.device("meta"):
        encoder = build(name)
    classifier = 1000 * (encoder.out_channels[-1] + 1)
    assert (sum(p.numel() for p in encoder.parameters()) + classifier) / 1e6 == pytest.approx(millions, abs=0.06)


def test_feature_maps_come_at_the_widths_and_strides_smp_is_told():
    encoder = build("mscan_t").eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 3, 64, 96))
    assert [list(m.shape[1:]) for m in maps] == [
        [c, 64 // s, 96 // s] for c, s in zip(encoder.out_channels, (1, 2, 4, 8, 16, 32), strict=True)
    ]


def test_a_shallow_encoder_stops_early():
    with torch.no_grad():
        assert len(build("mscan_t", depth=3).eval()(torch.randn(1, 3, 32, 32))) == 4


@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_encoder_keeps_its_weights_names_and_the_asked_stride(stride):
    plain = build("mscan_t")
    dilated = smp.encoders.get_encoder("mscan_t", weights=None, output_stride=stride).eval()
    dilated.load_state_dict(plain.state_dict())
    with torch.no_grad():
        maps = dilated(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [64, 32, 16, 8, 64 // min(16, stride), 64 // stride]


def test_smp_builds_a_unet_on_it_and_finds_its_skips():
    net = smp.Unet("mscan_t", encoder_weights=None, classes=2).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_a_block_is_what_the_paper_draws():
    torch.manual_seed(0)
    block = build("mscan_t").block1[0].eval()
    gate, attention = block.attn.spatial_gating_unit, block.attn
    x = torch.randn(2, 32, 12, 10)
    with torch.no_grad():
        block.layer_scale_1.fill_(0.5), block.layer_scale_2.fill_(0.25)
        u = nn.functional.gelu(attention.proj_1(block.norm1(x)))
        near = gate.conv0(u)
        near = near + sum(getattr(gate, f"conv{i}_2")(getattr(gate, f"conv{i}_1")(near)) for i in range(3))
        y = x + 0.5 * (attention.proj_2(gate.conv3(near) * u) + block.norm1(x))
        hidden = nn.functional.gelu(block.mlp.dwconv.dwconv(block.mlp.fc1(block.norm2(y))))
        y = y + 0.25 * block.mlp.fc2(hidden)
        torch.testing.assert_close(block(x), y)


def test_stochastic_depth_grows_linearly_to_its_rate():
    encoder = build("mscan_t")
    rates = [b.drop_path.drop_prob for s in (1, 2, 3, 4) for b in getattr(encoder, f"block{s}")]
    assert rates == pytest.approx([0.1 * i / 12 for i in range(13)])
