from __future__ import annotations

import pytest
import torch

from stages.parts.students import StudentConfig, build_student, extra_groups, parameter_groups


def grouped(arch: str, encoder: str) -> tuple[dict[str, tuple[float, float]], int]:
    """Every parameter's learning rate and weight decay by name, and how many places the groups hold."""
    student = build_student(StudentConfig(arch=arch, encoder=encoder), 8)
    names = {id(p): n for n, p in student.named_parameters()}
    groups = parameter_groups(student, 1e-3, 10, 0.01)
    torch.optim.AdamW(groups)
    places = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(places) == set(names.values())
    return places, sum(len(g["params"]) for g in groups)


@pytest.mark.parametrize(
    ("arch", "encoder", "expected"),
    [
        (
            "segnext",
            "mscan_t",
            {
                "net.encoder.block1.0.norm1.weight": (1e-3, 0.0),
                "net.encoder.norm4.bias": (1e-3, 0.0),
                "net.encoder.patch_embed1.proj.1.weight": (1e-3, 0.0),  # batch norm without "norm" in its name
                "net.encoder.block1.0.mlp.fc1.weight": (1e-3, 0.01),
                "net.encoder.block1.0.mlp.fc1.bias": (1e-3, 0.01),
                "net.decode_head.squeeze.gn.weight": (1e-2, 0.0),
                "net.decode_head.conv_seg.weight": (1e-2, 0.01),
            },
        ),
        (
            "setr",
            "vit_ti16",
            {
                "net.encoder.pos_embed": (1e-3, 0.0),
                "net.encoder.cls_token": (1e-3, 0.0),
                "net.encoder.norm.weight": (1e-3, 0.0),
                "net.encoder.blocks.0.attn.qkv.weight": (1e-3, 0.01),
                "net.decode_head.bn.bias": (1e-2, 0.0),
            },
        ),
        (
            "segformer",
            "mit_b0",
            {
                "net.encoder.block1.0.attn.norm.weight": (1e-3, 0.0),
                "net.decoder.fuse_stage.0.weight": (1e-2, 0.01),
                "net.decoder.fuse_stage.1.weight": (1e-2, 0.0),
                "net.segmentation_head.1.bias": (1e-2, 0.01),
                "net.decoder.mlp_stage.0.1.bias": (1e-2, 0.0),
            },
        ),
        ("fpn", "tu-convnext_atto", {"net.encoder.model.stem_1.weight": (1e-3, 0.0)}),
    ],
)
def test_the_head_learns_faster_and_norms_and_positions_do_not_decay(arch, encoder, expected):
    places, count = grouped(arch, encoder)
    assert count == len(places)
    assert {name: places[name] for name in expected} == expected


def test_frozen_parameters_are_in_no_group():
    student = build_student(StudentConfig(arch="fpn", encoder="mobilenet_v2"), 8)
    student.encoder.requires_grad_(False)
    groups = parameter_groups(student, 1e-3, 10, 0.01)
    assert {g["lr"] for g in groups} == {1e-2}
    head = [name for name, _ in student.named_parameters() if ".encoder." not in name]
    assert sum(len(g["params"]) for g in groups) == len(head) > 0


def test_norms_of_the_generator_do_not_decay():
    layer = torch.nn.TransformerDecoderLayer(8, 2, 16)
    names = {id(p): n for n, p in layer.named_parameters()}
    groups = extra_groups("generator", layer, 1e-2, 0.01)
    undecayed = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert undecayed == {f"norm{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")}
    assert sum(len(g["params"]) for g in groups) == len(names) and {g["lr"] for g in groups} == {1e-2}
    assert [g["name"] for g in extra_groups("head", torch.nn.Linear(2, 2), 1e-2, 0.01)] == ["head, decay"]
