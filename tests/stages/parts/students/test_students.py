from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from cache.errors import InputError
from stages.parts.students import StudentConfig, build_student, count_macs, fastest_layout, weights_digest

ROOT = Path(__file__).resolve().parents[4]
SMALL = [("segformer", "mit_b0"), ("segnext", "mscan_t"), ("setr", "vit_ti16"), ("fpn", "mobilenet_v2")]
STRIDES = {"segformer": 4, "segnext": 8, "setr": 4, "fpn": 4}


def small(arch: str, encoder: str, dim: int = 16):
    torch.manual_seed(0)
    return build_student(StudentConfig(arch=arch, encoder=encoder), dim)


@pytest.mark.parametrize(
    ("arch", "encoder", "parameters", "with_generator", "giga_macs"),
    [
        ("segformer", "mit_b4", 61.50, 65.7, 60.7),
        ("segnext", "mscan_b", 27.82, 32.0, 33.5),
        ("setr", "vit_b16", 86.76, 91.0, 109.0),
    ],
)
def test_the_papers_students_have_the_papers_parameters_and_macs(arch, encoder, parameters, with_generator, giga_macs):
    student = build_student(StudentConfig(arch=arch, encoder=encoder), 512)
    count = sum(p.numel() for p in student.parameters())
    assert round(count / 1e6, 2) == parameters
    assert round((count + 4_204_032) / 1e6, 1) == with_generator  # one decoder layer: method.md 3.3
    assert count_macs(student, 512) / 1e9 == pytest.approx(giga_macs, rel=0.005)


def test_counting_macs_leaves_the_student_as_it_was():
    student = small("segnext", "mscan_t").train()
    student.encoder.eval()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    assert count_macs(student, 64) == count_macs(student, 64) > 0
    assert student.training and not student.encoder.training
    assert all(v.device.type == "cpu" and torch.equal(v, before[k]) for k, v in student.state_dict().items())


def test_macs_of_one_convolution_are_its_multiplications():
    student = small("setr", "vit_ti16", dim=16)
    wider = small("setr", "vit_ti16", dim=17)
    # The last 1x1 is the only thing that depends on dim: 256 products at each of (64 / 4)^2 places.
    assert count_macs(wider, 64) - count_macs(student, 64) == 256 * 16 * 16


def test_the_students_features_start_at_like_length():
    found = {}
    for arch, encoder in SMALL[:3]:
        student = small(arch, encoder, dim=512).train()
        with torch.no_grad():
            found[arch] = student(torch.randn(2, 3, 64, 64)).norm(dim=1).mean().item()
    # smp's own start gives SegFormer 13 and the others 2 to 4 (at the paper's sizes).
    assert all(1.0 < length < 5.0 for length in found.values()), found
    assert max(found.values()) < 2 * min(found.values()), found


@pytest.mark.parametrize(("width", "kind"), [(0, "BatchNorm2d"), (64, "BatchNorm2d"), (768, "Linear")])
def test_segformers_head_is_the_public_one_of_its_width(width, kind):
    net = build_student(StudentConfig(arch="segformer", encoder="mit_b0", head_channels=width), 8).net
    levels = list(net.decoder.mlp_stage)
    assert len(levels) == 4 and all(kind in [type(m).__name__ for m in level.modules()] for level in levels)
    dropout, last = net.segmentation_head
    assert isinstance(dropout, torch.nn.Dropout2d) and dropout.p == 0.1
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.1) and not last.bias.any()


@pytest.mark.parametrize(("arch", "encoder"), SMALL)
@pytest.mark.parametrize("size", [(64, 96), (70, 45)])
def test_features_come_at_the_networks_stride_for_any_image_size(arch, encoder, size):
    student = small(arch, encoder).eval()
    padded = [-(-side // student.divisor) * student.divisor for side in size]
    with torch.no_grad():
        out = student(torch.randn(2, 3, *size))
    assert out.shape == (2, 16, padded[0] // STRIDES[arch], padded[1] // STRIDES[arch])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("arch", "encoder", "stride"),
    [
        ("unet", "tu-mobilenetv3_small_050", 1),
        ("fpn", "tu-convnext_atto", 4),
        ("deeplabv3plus", "mscan_t", 4),
        ("unet", "mscan_t", 1),
        ("linknet", "mscan_t", 1),
        ("upernet", "mscan_t", 4),
        ("pspnet", "resnet18", 8),
        ("dpt", "tu-vit_tiny_patch16_224", 2),
        ("segnext", "tu-mobilenetv3_small_050", 8),
        ("segnext", "mit_b0", 8),
    ],
)
def test_any_smp_architecture_and_encoder_is_a_student(arch, encoder, stride):
    student = small(arch, encoder, dim=8).eval()
    with torch.no_grad():
        assert student(torch.randn(1, 3, 64, 96)).shape == (1, 8, 64 // stride, 96 // stride)


def test_odd_sizes_keep_features_aligned_with_the_image():
    student = small("fpn", "mobilenet_v2").eval()
    image = torch.zeros(1, 3, 100, 100)
    image[..., 50:] = 2.0
    with torch.no_grad():
        energy = (student(image) - student(torch.zeros_like(image))).abs().mean(dim=(0, 1, 2))
    # What changed lies right of the middle: were F of the padded image taken as the image's, it would move left.
    centre = (energy * torch.linspace(0, 1, len(energy))).sum() / energy.sum()
    mirrored = (student(image.flip(-1)) - student(torch.zeros_like(image))).abs().mean(dim=(0, 1, 2)).detach()
    other = (mirrored * torch.linspace(0, 1, len(energy))).sum() / mirrored.sum()
    assert centre > 0.6
    assert centre + other == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize(("arch", "encoder"), SMALL)
def test_gradients_reach_every_parameter(arch, encoder):
    student = small(arch, encoder).train()
    out = student(torch.randn(2, 3, 96, 64))
    (out * torch.randn_like(out)).sum().backward()
    dead = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())


@pytest.mark.parametrize(("arch", "encoder"), SMALL)
def test_eval_mode_gives_the_same_features_whatever_was_drawn_before(arch, encoder):
    student = small(arch, encoder).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first = student(images)
        torch.manual_seed(7)
        torch.rand(3)
        assert torch.equal(student(images), first)
        torch.testing.assert_close(student(images[1:]), first[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arch", "encoder"), SMALL)
def test_half_precision_is_close_to_full(arch, encoder):
    student = small(arch, encoder).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        full = student(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = student(images).float()
    assert torch.isfinite(half).all()
    assert torch.nn.functional.cosine_similarity(full, half, dim=1).mean() > 0.99


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"arch": "segfomer"}, ["student.arch", "segfomer", "segformer"]),
        ({"arch": "fpn", "encoder": "mscan_x"}, ["student.encoder", "mscan_x", "mscan_t"]),
        ({"arch": "setr", "encoder": "mit_b0"}, ["student.encoder", "mit_b0", "vit_b16"]),
        ({"arch": "fpn", "encoder": "tu-resnet17"}, ["tu-resnet17", "tu-resnet18"]),
        ({"arch": "fpn", "encoder": "resnet18", "head_channels": 64}, ["head_channels", "64", "fpn"]),
        ({"arch": "linknet", "encoder": "mit_b0"}, ["linknet", "mit_b0"]),
        ({"arch": "segnext", "encoder": "mscan_b", "weights": "imagenet"}, ["mscan_b", "local"]),
        ({"arch": "fpn", "encoder": "resnet18", "weights": "no/such.pth"}, ["no/such.pth", "student.weights"]),
    ],
)
def test_a_bad_setting_is_named_in_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        build_student(StudentConfig(**settings), 8)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "encoder", "maker", "asked"),
    [
        ("fpn", "resnet18", "segmentation_models_pytorch.create_model", {"encoder_weights": "imagenet"}),
        ("fpn", "tu-resnet18", "segmentation_models_pytorch.create_model", {"encoder_weights": True}),
        ("setr", "vit_ti16", "timm.create_model", {"pretrained": True}),
    ],
)
def test_a_download_is_asked_for_and_its_failure_is_told_in_one_line(monkeypatch, arch, encoder, maker, asked):
    calls = []

    def no_network(*_, **options):
        calls.append(options)
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(maker, no_network)
    with pytest.raises(InputError) as caught:
        build_student(StudentConfig(arch=arch, encoder=encoder, weights="imagenet"), 8)
    assert asked.items() <= calls[0].items()
    assert "no route" in str(caught.value) and encoder in str(caught.value) and "\n" not in str(caught.value)


def test_head_channels_set_the_width_of_the_head():
    cfg = StudentConfig(arch="segnext", encoder="mscan_t", head_channels=64)
    assert build_student(cfg, 8).net.decode_head.conv_seg.weight.shape == (8, 64, 1, 1)
    assert small("segnext", "mscan_t").net.decode_head.conv_seg.in_channels == 256


def test_the_weights_digest_follows_the_files_bytes_not_its_name(tmp_path):
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (weights_digest(StudentConfig(weights=str(tmp_path / n))) for n in ("a.pth", "b.pth", "c.pth"))
    assert a == b != c
    assert [weights_digest(StudentConfig(weights=w)) for w in ("", "imagenet")] == ["", "imagenet"]
    with pytest.raises(InputError, match=r"gone\.pth"):
        weights_digest(StudentConfig(weights=str(tmp_path / "gone.pth")))


def test_where_the_weights_lie_is_no_part_of_a_fingerprint():
    assert "weights" not in StudentConfig(weights="somewhere.pth").fingerprint_fields()


def test_student_settings_load_without_torch():
    code = "import sys, stages.parts.students as s; s.StudentConfig(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "False"


@pytest.mark.slow
def test_an_exported_segnext_takes_any_image_size():
    student = small("segnext", "mscan_t").eval()
    height, width = Dim("height", min=1, max=64), Dim("width", min=1, max=64)
    shapes = ({0: Dim("batch", min=1, max=8), 2: 32 * height, 3: 32 * width},)
    program = torch.export.export(student, (torch.randn(2, 3, 64, 96),), dynamic_shapes=shapes)
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), student(images))


def test_depthwise_strips_lie_row_major_on_a_gpu_and_nothing_else_does() -> None:
    strips, square = (
        nn.Sequential(nn.Conv2d(8, 8, size, padding="same", groups=8), nn.Conv2d(8, 4, (1, 3)))
        for size in ((1, 7), (3, 3))
    )
    assert fastest_layout(strips, torch.device("cuda")) == torch.contiguous_format
    assert fastest_layout(strips, torch.device("cpu")) == torch.channels_last
    assert fastest_layout(square, torch.device("cuda")) == torch.channels_last
    segnext = build_student(StudentConfig(arch="segnext", encoder="mscan_t", head_channels=64), 8)
    assert fastest_layout(segnext, torch.device("cuda")) == torch.contiguous_format
