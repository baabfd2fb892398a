"""Claims about trying a student before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cache.errors import InputError
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.probing import check_pass, check_sizes

SMALL = "tu-mobilenetv3_small_050"


def built(arch: str, encoder: str = SMALL) -> tuple[Any, StudentConfig]:
    cfg = StudentConfig(arch=arch, encoder=encoder)
    return build_student(cfg, 8), cfg


def test_a_plain_student_passes_and_is_left_as_it_was() -> None:
    student, cfg = built("fpn")
    before, drawn = {k: v.clone() for k, v in student.state_dict().items()}, torch.get_rng_state()
    check_sizes(student, cfg, 64)
    check_pass(student, cfg, 64, 4, 4)
    assert student.training and all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_crops_too_small_for_a_pyramid_are_refused() -> None:
    student, cfg = built("pan")
    with pytest.raises(InputError, match=r"arch 'pan' on encoder .* refuses photos of 64 x 64 pixels .*views\.size"):
        check_sizes(student, cfg, 64)


def test_a_network_of_one_size_is_refused_though_the_crops_have_it() -> None:
    class OneSize(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[2:] == (64, 64), f"Input height ({images.shape[2]}) doesn't match model (64)."
            return images

    student, cfg = built("fpn")
    student.net = torch.nn.Sequential(OneSize(), torch.nn.Conv2d(3, 8, 1))
    with pytest.raises(InputError, match=r"refuses photos of 93 x 123 pixels \(Input height \(96\) doesn't match"):
        check_sizes(student, cfg, 64)


@pytest.mark.parametrize("arch", ["deeplabv3", "deeplabv3plus", "pan", "upernet"])
def test_batch_normalisation_over_one_image_is_refused_with_the_least_that_works(arch: str) -> None:
    student, cfg = built(arch)
    with pytest.raises(InputError, match=rf"'{arch}' .*train\.batch = 1 .*leaves one; set train\.batch=2"):
        check_pass(student, cfg, 64, 1, 1)
    with pytest.raises(InputError, match=r"train\.batch=8 or more, or train\.grad_accumulation_steps=2 or less"):
        check_pass(student, cfg, 64, 4, 4)
    check_pass(student, cfg, 64, 4, 2)


def test_dpt_takes_an_odd_number_of_cells() -> None:
    student, cfg = built("dpt", "tu-vit_tiny_patch16_224")
    check_sizes(student, cfg, 80)
