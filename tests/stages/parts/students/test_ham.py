from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.parts.students.ham import EVAL_STEPS, NMF, RANK, TRAIN_STEPS, LightHam, factorise


def slow_nmf(x: np.ndarray, bases: np.ndarray, steps: int) -> np.ndarray:
    """One image's factorisation, entry by entry, in float64."""
    channels, places = x.shape
    rank = bases.shape[1]
    coef = np.zeros((places, rank))
    for n in range(places):
        scores = [sum(x[c, n] * bases[c, r] for c in range(channels)) for r in range(rank)]
        total = sum(np.exp(s) for s in scores)
        coef[n] = [np.exp(s) / total for s in scores]

    def better_coef(coef, bases):
        new = np.zeros_like(coef)
        for n in range(places):
            for r in range(rank):
                top = sum(x[c, n] * bases[c, r] for c in range(channels))
                seen = [sum(coef[n, q] * bases[c, q] for q in range(rank)) for c in range(channels)]
                new[n, r] = coef[n, r] * top / (sum(seen[c] * bases[c, r] for c in range(channels)) + 1e-6)
        return new

    def better_bases(coef, bases):
        new = np.zeros_like(bases)
        for c in range(channels):
            for r in range(rank):
                top = sum(x[c, n] * coef[n, r] for n in range(places))
                seen = [sum(coef[n, q] * bases[c, q] for q in range(rank)) for n in range(places)]
                new[c, r] = bases[c, r] * top / (sum(seen[n] * coef[n, r] for n in range(places)) + 1e-6)
        return new

    for _ in range(steps):
        coef = better_coef(coef, bases)
        bases = better_bases(coef, bases)
    coef = better_coef(coef, bases)
    return bases @ coef.T


@pytest.mark.parametrize("steps", [1, 3])
def test_factorisation_agrees_with_a_slow_one(steps):
    rng = np.random.default_rng(0)
    x, bases = rng.random((2, 5, 6)), rng.random((2, 5, 3))
    fast = factorise(torch.from_numpy(x), torch.from_numpy(bases), steps).numpy()
    for image in range(2):
        np.testing.assert_allclose(fast[image], slow_nmf(x[image], bases[image], steps), rtol=1e-9)


def test_rank_one_features_are_rebuilt_by_hand():
    # One base of ones, one place with features (2, 4): softmax over one base is 1, then
    # coef = 1 * 6 / (1 * 2) = 3, bases = (1, 1) * (2, 4) * 3 / (3 * 3) = (2/3, 4/3), coef = 3: (2, 4) again.
    out = factorise(torch.tensor([[[2.0], [4.0]]]), torch.ones(1, 2, 1), steps=1)
    torch.testing.assert_close(out, torch.tensor([[[2.0], [4.0]]]))


def test_the_output_has_at_most_the_rank_of_the_bases():
    x = torch.rand(1, 40, 50, dtype=torch.float64)
    assert torch.linalg.matrix_rank(factorise(x, torch.rand(1, 40, 4, dtype=torch.float64), 6)[0]) <= 4


def test_eval_takes_seven_steps_from_fixed_bases_and_training_six_from_drawn_ones(monkeypatch):
    steps = []

    def watch(x, bases, count):
        steps.append(count)
        return factorise(x, bases, count)

    monkeypatch.setattr("stages.parts.students.ham.factorise", watch)
    nmf, x = NMF(32), torch.rand(2, 32, 4, 5)
    torch.manual_seed(3)
    drawn = F.normalize(torch.rand(2, 32, RANK), dim=1)
    torch.manual_seed(3)
    out = nmf.train()(x)
    torch.testing.assert_close(out.flatten(2), factorise(x.flatten(2), drawn, TRAIN_STEPS))
    out = nmf.eval()(x)
    torch.testing.assert_close(out.flatten(2), factorise(x.flatten(2), nmf.bases.expand(2, -1, -1), EVAL_STEPS))
    assert steps == [6, 7]


def test_fixed_bases_depend_neither_on_the_global_generator_nor_on_the_device_of_birth():
    torch.manual_seed(1)
    one = NMF(64).bases
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = NMF(64).bases
    assert torch.equal(torch.get_rng_state(), state)
    with torch.device("meta"):
        third = NMF(64).bases
    assert third.device.type == "cpu"
    assert torch.equal(one, other) and torch.equal(one, third)
    torch.testing.assert_close(one.norm(dim=0), torch.ones(RANK))


def test_training_draws_new_bases_at_every_forward():
    nmf, x = NMF(32).train(), torch.rand(1, 32, 6, 6)
    assert not torch.equal(nmf(x), nmf(x))


def test_fixed_bases_are_no_part_of_a_checkpoint():
    assert NMF(32).state_dict() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_features_in_half_precision_neither_overflow_nor_drift(dtype):
    nmf = NMF(64).eval()
    x = 200 * torch.rand(1, 64, 24, 24)
    assert (x.flatten(2) @ x.flatten(2).mT).max() > torch.finfo(torch.float16).max  # what half precision can't hold
    out = nmf(x.to(dtype))
    assert out.dtype == dtype and torch.isfinite(out).all()
    assert torch.equal(out, nmf(x.to(dtype).float()).to(dtype))  # only the input and the output are rounded


def test_autocast_does_not_reach_the_factorisation():
    nmf, x = NMF(64).eval(), torch.rand(1, 64, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nmf(x)
    assert torch.equal(inside, nmf(x))


def test_features_of_zeros_give_finite_gradients():
    nmf, x = NMF(32).train(), torch.zeros(1, 32, 4, 4, requires_grad=True)
    nmf(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_lightham_has_the_public_heads_names():
    names = {k: list(v.shape) for k, v in LightHam([128, 320, 512], 512, 150).state_dict().items()}
    assert names == {
        "squeeze.conv.weight": [512, 960, 1, 1],
        "squeeze.gn.weight": [512],
        "squeeze.gn.bias": [512],
        "hamburger.ham_in.conv.weight": [512, 512, 1, 1],
        "hamburger.ham_in.conv.bias": [512],
        "hamburger.ham_out.conv.weight": [512, 512, 1, 1],
        "hamburger.ham_out.gn.weight": [512],
        "hamburger.ham_out.gn.bias": [512],
        "align.conv.weight": [512, 512, 1, 1],
        "align.gn.weight": [512],
        "align.gn.bias": [512],
        "conv_seg.weight": [150, 512, 1, 1],
        "conv_seg.bias": [150],
    }


def test_lightham_is_what_the_method_says():
    torch.manual_seed(0)
    head = LightHam([8, 8, 8], 32, 4).eval()
    maps = [torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)]
    same = torch.cat([maps[0], *(F.interpolate(m, size=(8, 8), mode="bilinear") for m in maps[1:])], dim=1)
    w = head.state_dict()

    def norm(x, name):
        return F.group_norm(x, 32, w[f"{name}.gn.weight"], w[f"{name}.gn.bias"])

    x = norm(F.conv2d(same, w["squeeze.conv.weight"]), "squeeze").relu()
    inner = F.conv2d(x, w["hamburger.ham_in.conv.weight"], w["hamburger.ham_in.conv.bias"]).relu()
    low_rank = factorise(inner.flatten(2), head.hamburger.ham.bases.expand(2, -1, -1), 7).view_as(inner)
    x = (x + norm(F.conv2d(low_rank, w["hamburger.ham_out.conv.weight"]), "hamburger.ham_out")).relu()
    x = norm(F.conv2d(x, w["align.conv.weight"]), "align").relu()
    expected = F.conv2d(x, w["conv_seg.weight"], w["conv_seg.bias"])
    torch.testing.assert_close(head(maps), expected)
