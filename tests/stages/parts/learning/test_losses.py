"""The pixel loss against hand-worked numbers and slow float64 loops (method.md section 4, Eq. 5)."""

from __future__ import annotations

import math
import os

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from stages.parts.learning.losses import PixelLossConfig, pixel_logits, pixel_loss, unweighted_terms
from stages.parts.learning.pixel_sums import MASKED, by_products, forward_sums, gradient_at, parts, pixel_sums


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(*shape, classes, seed=0):
    labels = torch.randint(0, classes + 1, shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(labels == classes, 255, labels)


def slow_nel(logits, labels, ignored_are_negatives):
    """ZegCLIP's NEL, class by class and pixel by pixel, float64."""
    batch, classes, height, width = logits.shape
    focal, dice, present = 0.0, 0.0, 0
    for b in range(batch):
        for c in range(classes):
            terms, p_sum, t_sum, overlap = [], 0.0, 0, 0.0
            for y in range(height):
                for x in range(width):
                    label = int(labels[b, y, x])
                    if label == 255 and not ignored_are_negatives:
                        continue
                    p = 1 / (1 + math.exp(-float(logits[b, c, y, x])))
                    t = int(label == c)
                    p_t = p if t else 1 - p
                    terms.append((0.25 if t else 0.75) * (1 - p_t) ** 2 * -math.log(p_t))
                    p_sum, t_sum, overlap = p_sum + p, t_sum + t, overlap + p * t
            focal += sum(terms) / max(len(terms), 1)
            if t_sum:
                dice += 1 - (2 * overlap + 1) / (p_sum + t_sum + 1)
                present += 1
    return focal / max(present, 1), dice / max(present, 1)


def test_scores_of_seen_classes_are_products_and_of_latent_ones_cosines():
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    seen, latent = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 7.0], [-2.0, 0.0]]])
    cfg = PixelLossConfig(alpha=2.0, beta=10.0)
    logits = pixel_logits(features, seen, latent, torch.tensor([[True, True]]), cfg)
    # 2 * 3; 10 * 4/5; 10 * -3/5.
    torch.testing.assert_close(logits.flatten(), torch.tensor([6.0, 8.0, -6.0]))


def test_padded_latent_columns_have_no_probability_and_no_gradient():
    features = randn(2, 4, 3, 3)
    latent = randn(2, 3, 4, seed=1).requires_grad_()
    filled = torch.tensor([[True, True, False], [False, False, False]])
    labels = labels_of(2, 6, 6, classes=2)
    cfg = PixelLossConfig()
    logits = pixel_logits(features, randn(2, 4, seed=2), latent, filled, cfg)
    assert (logits[0, 4] == MASKED).all() and (logits[1, 2:] == MASKED).all()
    sum(pixel_loss(logits, labels, cfg).values()).backward()
    assert (latent.grad[~filled] == 0).all() and (latent.grad[filled] != 0).any()
    # Without the padded columns the losses are the same.
    for b, keep in ((0, [0, 1, 2, 3]), (1, [0, 1])):
        whole = pixel_loss(logits[b : b + 1], labels[b : b + 1], cfg)
        cut = pixel_loss(logits[b : b + 1, keep], labels[b : b + 1], cfg)
        for name in whole:
            torch.testing.assert_close(whole[name], cut[name])


def test_without_latent_embeddings_only_seen_classes_are_scored():
    assert pixel_logits(randn(1, 4, 2, 2), randn(3, 4), None, None, PixelLossConfig()).shape == (1, 3, 2, 2)


def test_features_of_zero_length_give_finite_scores_and_gradients():
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    filled = torch.ones(1, 2, dtype=torch.bool)
    pixel_logits(features, randn(3, 4), torch.zeros(1, 2, 4), filled, PixelLossConfig()).sum().backward()
    assert features.grad.isfinite().all()


def test_nel_of_two_pixels_by_hand():
    # One class, logits 0 (p = 1/2), one positive and one negative pixel, N_m = 1.
    focal, dice, _ = unweighted_terms(torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 255]]]))
    assert focal.item() == pytest.approx((0.25 + 0.75) / 2 * 0.25 * math.log(2))
    assert dice.item() == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))
    focal, dice, _ = unweighted_terms(torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 255]]]), ignored_are_negatives=False)
    assert focal.item() == pytest.approx(0.25 * 0.25 * math.log(2))
    assert dice.item() == pytest.approx(1 - (2 * 0.5 + 1) / (0.5 + 1 + 1))


@pytest.mark.parametrize("ignored_are_negatives", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_nel_equals_the_slow_reference(seed, ignored_are_negatives):
    logits, labels = 4 * randn(3, 4, 5, 6, seed=seed), labels_of(3, 5, 6, classes=3, seed=seed)
    labels[1] = 255
    focal, dice, _ = unweighted_terms(logits, labels, ignored_are_negatives)
    slow_focal, slow_dice = slow_nel(logits, labels, ignored_are_negatives)
    assert (focal.item(), dice.item()) == pytest.approx((slow_focal, slow_dice), rel=1e-5)


def test_the_gradient_of_nel_is_that_of_its_values():
    logits = randn(2, 3, 3, 3).double().requires_grad_()
    labels = labels_of(2, 3, 3, classes=3)
    assert torch.autograd.gradcheck(
        lambda x: unweighted_terms(x, labels)[0] + unweighted_terms(x, labels, False)[1], logits
    )


WITHHELD = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])


def by_autograd(logits, labels, ignored_are_negatives, withheld=None):
    """The three sums of the definition at the labels' size and, by autograd through it, their gradient."""
    leaf = logits.detach().requires_grad_()
    found = [forward_sums(part)[:3] for part in parts(leaf, labels, ignored_are_negatives, withheld)]
    sums = torch.stack([torch.stack(terms).sum() for terms in zip(*found, strict=True)])
    return sums.detach(), torch.autograd.grad(sums @ torch.tensor([1.0, 2.0, 3.0]).to(sums), leaf)[0]


@pytest.mark.parametrize("ignored_are_negatives", [True, False])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_gradient_by_hand_is_autograds_and_compiling_changes_nothing(compiled, ignored_are_negatives):
    for classes in (5, 7):  # compiled once for any number of classes
        logits, labels = 3 * randn(3, classes, 4, 6), labels_of(3, 16, 20, classes=classes)
        labels[1] = 255
        for withheld in (None, WITHHELD):
            leaf = logits.clone().requires_grad_()
            sums = torch.stack(pixel_sums(leaf, labels, ignored_are_negatives, withheld=withheld, compiled=compiled))
            (gradient,) = torch.autograd.grad(sums @ torch.tensor([1.0, 2.0, 3.0]), leaf)
            exact, slope = by_autograd(logits.double(), labels, ignored_are_negatives, withheld)
            torch.testing.assert_close(sums.double(), exact, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ignored_are_negatives", [True, False])
def test_a_withheld_class_has_a_part_in_pixels_of_another_seen_class_alone(ignored_are_negatives):
    logits, labels = 3 * randn(3, 5, 6, 8), labels_of(3, 6, 8, classes=5)  # three seen classes, two latent ones
    labels[:, :2] = 255
    labels[0][labels[0] == 0] = labels[0][labels[0] == 2] = 1
    labels[2][labels[2] == 1] = 2
    unnamed = (labels > 2)[:, None] & torch.nn.functional.pad(WITHHELD, (0, 2))[..., None, None]
    masked = logits.masked_fill(unnamed, MASKED).requires_grad_()
    found, wanted = logits.clone().requires_grad_(), torch.stack(pixel_sums(masked, labels, ignored_are_negatives))
    sums = torch.stack(pixel_sums(found, labels, ignored_are_negatives, withheld=WITHHELD))
    torch.testing.assert_close(sums, wanted)
    weights = torch.tensor([1.0, 2.0, 3.0])
    (gradient,), (slope,) = torch.autograd.grad(sums @ weights, found), torch.autograd.grad(wanted @ weights, masked)
    torch.testing.assert_close(gradient, slope)
    assert not gradient[unnamed].any() and (gradient[0, 0][labels[0] == 1] > 0).all()


@pytest.mark.parametrize("size", [(16, 24), (13, 21), (4, 6), (3, 5)])
def test_what_upsampling_gave_is_taken_back_by_products_as_by_torch(size):
    grad = randn(2, 5, *size).double()
    small = torch.Size((2, 5, 4, 6))
    torch.testing.assert_close(by_products(grad, small), gradient_at(grad, small))


def test_the_class_that_is_present_alone_has_dice():
    logits = randn(1, 3, 4, 4)
    labels = torch.full((1, 4, 4), 1)
    changed = logits.clone()
    changed[:, [0, 2]] += 1
    assert torch.equal(unweighted_terms(logits, labels)[1], unweighted_terms(changed, labels)[1])


def test_cross_entropy_leaves_ignored_pixels_out():
    logits = torch.tensor([[0.0, 5.0, 1.0], [0.0, 5.0, 3.0]]).view(1, 2, 1, 3)
    loss = unweighted_terms(logits, torch.tensor([[[0, 255, 1]]]))[2]
    assert loss.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2)


@pytest.mark.parametrize("ignored_are_negatives", [True, False])
def test_a_batch_without_a_valid_pixel_has_finite_losses_and_gradients(ignored_are_negatives):
    logits = randn(2, 3, 2, 2).requires_grad_()
    cfg = PixelLossConfig(ignored_are_negatives=ignored_are_negatives)
    terms = pixel_loss(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), cfg)
    assert terms["cross_entropy"].item() == 0.0 and terms["dice"].item() == 0.0
    assert (terms["focal"].item() > 0) == ignored_are_negatives and terms["focal"].isfinite()
    sum(terms.values()).backward()
    assert logits.grad.isfinite().all()


def test_the_pixel_loss_weighs_its_terms_at_the_labels_size():
    logits, labels = randn(2, 3, 4, 4), labels_of(2, 8, 12, classes=3).to(torch.uint8)
    cfg = PixelLossConfig(focal_weight=7.0, dice_weight=3.0)
    terms = pixel_loss(logits, labels, cfg)
    large = torch.nn.functional.interpolate(logits, (8, 12), mode="bilinear", align_corners=False)
    focal, dice, entropy = unweighted_terms(large, labels.long())
    torch.testing.assert_close(terms["focal"], 7 * focal)
    torch.testing.assert_close(terms["dice"], 3 * dice)
    torch.testing.assert_close(terms["cross_entropy"], entropy)


def test_latent_pixels_are_ignored_when_latent_embedding_is_off():
    logits = randn(1, 3, 4, 4)
    labels = labels_of(1, 4, 4, classes=5).to(torch.uint8)
    without = torch.where(labels >= 3, 255, labels)
    for term, same in zip(
        pixel_loss(logits, labels, PixelLossConfig()).values(),
        pixel_loss(logits, without, PixelLossConfig()).values(),
        strict=True,
    ):
        assert torch.equal(term, same)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_half_precision_scores_give_finite_losses(scale):
    features = (scale * randn(1, 8, 4, 4)).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = pixel_logits(
            features, randn(3, 8), randn(1, 2, 8).bfloat16(), torch.tensor([[True, False]]), PixelLossConfig()
        )
        terms = pixel_loss(logits, labels_of(1, 8, 8, classes=4), PixelLossConfig())
    assert logits.dtype == torch.float32 and all(t.dtype == torch.float32 and t.isfinite() for t in terms.values())
    sum(terms.values()).backward()
    assert features.grad.isfinite().all()


def _rank(rank, folder, logits, labels):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    own = logits[rank * 2 : rank * 2 + 2]
    terms = pixel_loss(own, labels[rank * 2 : rank * 2 + 2], PixelLossConfig())
    torch.save(terms, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_the_mean_over_two_processes_is_the_loss_of_one(tmp_path):
    # Very unequal halves: the second has few classes and few valid pixels.
    logits, labels = randn(4, 3, 4, 4), labels_of(4, 8, 8, classes=3)
    labels[2:, 1:] = 255
    torch.multiprocessing.spawn(_rank, (str(tmp_path), logits, labels), nprocs=2)  # type: ignore[attr-defined]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in pixel_loss(logits, labels, PixelLossConfig()).items():
        torch.testing.assert_close((found[0][name] + found[1][name]) / 2, value)


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"beta": -1.0}, {"focal_weight": -1.0}, {"gamma": 2.0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        PixelLossConfig(**bad)
