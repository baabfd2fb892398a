"""Distillation against hand-worked numbers and slow float64 loops (method.md section 4, Eq. 2-4)."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from cache.errors import InputError
from stages.parts.learning.batches import Regions
from stages.parts.learning.distillation import (
    Bank,
    DistillConfig,
    Distiller,
    Froster,
    Others,
    global_loss,
    global_token,
    local_loss,
    region_means,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    a, b = a.double(), b.double()
    return float(a @ b / a.norm() / b.norm())


def slow_infonce(query, positive, keys, tau):
    """-log softmax of one query; `positive` is one of `keys`' indices."""
    scores = [math.exp(cosine(query, k) / tau) for k in keys]
    return -math.log(scores[positive] / sum(scores))


def slow_region_means(features, masks, regions):
    """Pixel by pixel, float64."""
    _, dim, h, w = features.shape
    height, width = masks.shape[1:]
    means = []
    for b, region in zip(regions.image.tolist(), regions.id.tolist(), strict=True):
        total, pixels = torch.zeros(dim, dtype=torch.float64), 0
        for y in range(height):
            for x in range(width):
                if masks[b, y, x] == region:
                    total += features[b, :, y * h // height, x * w // width].double()
                    pixels += 1
        means.append(total / max(pixels, 1))
    return torch.stack(means)


SEEN = 4
"""Classes with labels; ids from here on are latent."""


def slow_local_loss(student, teacher, regions, tau, scope):
    images, batch = [], len(regions.ids)
    for b in range(batch):
        own = [r for r in range(len(regions)) if regions.image[r] == b]
        keys = own if scope == "image" else list(range(len(regions)))
        losses = [slow_infonce(student[r], keys.index(r), [teacher[k] for k in keys], tau) for r in own]
        images.append(sum(losses) / len(losses) if losses else 0.0)
    return sum(images) / batch


def test_the_global_token_weighs_positions_by_their_raw_agreement():
    # D = 4, so scores are divided by 2: C_g.F = 2 ln 3 and 0 give W = 3/4 and 1/4.
    features = torch.zeros(1, 4, 1, 2)
    features[0, 0, 0, 0], features[0, 1, 0, 1] = 2 * math.log(3), 8.0
    teacher = torch.tensor([[1.0, 0, 5, 0]])
    torch.testing.assert_close(global_token(features, teacher), torch.tensor([[1.5 * math.log(3), 2.0, 0, 0]]))


def test_a_longer_teacher_token_sharpens_the_weights():
    features, teacher = randn(1, 8, 4, 4), randn(1, 8, seed=1)
    best = (teacher @ features.flatten(2)[0]).argmax()
    torch.testing.assert_close(global_token(features, teacher * 1e4)[0], features.flatten(2)[0, :, best])


def test_the_global_loss_of_two_tokens_by_hand():
    # Cosines 1 and 0 at tau 1/2: -log(e^2 / (e^2 + 1)), whatever the lengths.
    loss = global_loss(
        torch.tensor([[3.0, 0]]), torch.tensor([[0.5, 0], [0, 9.0]]), torch.tensor([True, True]), torch.tensor([0]), 0.5
    )
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_global_infonce_with_the_bank_equals_the_slow_reference_over_many_steps():
    bank, stored = Bank(7, 5), []
    for step in range(6):
        batch = [3, 1, 3, 2, 3, 3][step]
        student, teacher = randn(batch, 5, seed=step), randn(batch, 5, seed=100 + step) * 9
        slots = bank.enqueue(teacher)
        stored = (stored + list(teacher))[-7:]
        fast = global_loss(student, bank.tokens, bank.valid, slots, 0.07)
        slow = sum(slow_infonce(student[b], len(stored) - batch + b, stored, 0.07) for b in range(batch)) / batch
        assert fast.item() == pytest.approx(slow, rel=1e-5)


def test_each_positive_stands_in_the_bank_exactly_once():
    bank = Bank(5, 4)
    for step in range(7):
        tokens = randn(2, 4, seed=step)
        slots = bank.enqueue(tokens)
        for token, slot in zip(tokens, slots.tolist(), strict=True):
            same = (bank.tokens == token).all(dim=1)
            assert same.nonzero().flatten().tolist() == [slot]


def test_empty_slots_of_the_bank_are_no_negatives():
    bank = Bank(24, 3)
    slots = bank.enqueue(randn(1, 3))
    loss = global_loss(randn(1, 3, seed=1), bank.tokens, bank.valid, slots, 0.07)
    assert loss.item() == 0.0


def test_a_batch_larger_than_the_bank_is_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"distill\.bank_size = 4 is smaller than the 5 images.*set it to 5 or more"):
        Bank(4, 2).enqueue(torch.ones(5, 2))


def test_a_batch_as_large_as_the_bank_fills_it():
    bank = Bank(4, 2)
    bank.enqueue(randn(3, 2))
    tokens = randn(4, 2, seed=1)
    torch.testing.assert_close(bank.tokens[bank.enqueue(tokens)], tokens)


def test_a_bank_restored_from_its_state_goes_on_exactly():
    bank, other = Bank(5, 3), Bank(5, 3)
    for step in range(3):
        bank.enqueue(randn(2, 3, seed=step))
    other.load_state_dict(bank.state_dict())
    for b in (bank, other):
        b.enqueue(randn(2, 3, seed=9))
    for name, value in bank.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_bank_of_two_processes_gives_the_loss_of_one():
    cfg, features, tokens = DistillConfig(bank_size=6), randn(4, 8, 3, 3), randn(4, 8, seed=1)
    whole = Distiller(cfg, 8).global_loss(features, tokens)
    parts = [
        Distiller(cfg, 8).global_loss(features[i : i + 2], tokens[i : i + 2], gathered=tokens, offset=i) for i in (0, 2)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_a_region_mean_weighs_cells_by_the_regions_pixels_in_them():
    features = torch.tensor([[[[1.0, 5.0]]]])
    masks = torch.tensor([[[7, 7, 7, 255], [7, 255, 255, 2]]], dtype=torch.uint8)
    # Region 7 has three pixels in the left cell and one in the right: (3 * 1 + 5) / 4. Region 2 has one pixel.
    assert region_means(features, masks, Regions.of([[7, 2]])).flatten().tolist() == [2.0, 5.0]


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (4, 4)])
def test_region_means_equal_the_slow_reference(size):
    features = randn(3, 5, 4, 4)
    masks = torch.randint(0, 4, (3, *size), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    masks[masks == 3] = 255
    regions = Regions.of([[1, 2], [2], [1, 0]])
    slow = slow_region_means(features, masks, regions)
    torch.testing.assert_close(region_means(features, masks, regions).double(), slow, atol=1e-6, rtol=1e-5)


def test_a_region_of_one_pixel_does_not_vanish_at_the_features_resolution():
    features, masks = randn(1, 4, 2, 2), torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 40, 3] = 9
    torch.testing.assert_close(region_means(features, masks, Regions.of([[9]]))[0], features[0, :, 1, 0])


def test_the_local_loss_of_two_regions_by_hand():
    # Each query: cosine 1 with its own token, 0 with the other, tau 1: log(1 + 1/e).
    tokens = torch.eye(2)
    loss = local_loss(tokens * 4, tokens, Regions.of([[0, 1]]), DistillConfig(tau=1.0), SEEN)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_the_local_loss_equals_the_slow_reference(scope):
    regions = Regions.of([[0, 1, 2], [], [3, 0, 1], [5]])
    student, teacher = randn(7, 6), randn(7, 6, seed=1) * 5
    fast = local_loss(student, teacher, regions, DistillConfig(negatives=scope, same_class="negative"), SEEN)
    assert fast.item() == pytest.approx(slow_local_loss(student, teacher, regions, 0.07, scope), rel=1e-5)


def slow_batch_loss(student, teacher, regions, tau, same_class, alike):
    """Loops, one query at a time, float64: what regions of other images are to it, spelt out."""
    unit, keys = functional.normalize(student.double(), dim=1), functional.normalize(teacher.double(), dim=1)
    own_id, image, images = regions.id.tolist(), regions.image.tolist(), [[] for _ in regions.ids]
    for r in range(len(regions)):
        positives, compared = [r], []
        for k in range(len(regions)):
            elsewhere = image[k] != image[r]
            if elsewhere and own_id[k] == own_id[r] < SEEN and same_class != "negative":
                if same_class == "masked":
                    continue
                positives.append(k)
            if elsewhere and min(own_id[k], own_id[r]) >= SEEN and float(keys[r] @ keys[k]) > alike:
                continue
            compared.append(float(unit[r] @ keys[k]) / tau)
        whole = math.log(sum(math.exp(v) for v in compared))
        images[image[r]].append(sum(whole - float(unit[r] @ keys[k]) / tau for k in positives) / len(positives))
    return sum(sum(i) / len(i) for i in images if i) / len(images)


@pytest.mark.parametrize("same_class", ["masked", "positive", "negative"])
@pytest.mark.parametrize("alike", [1.0, 0.2])
def test_regions_of_other_images_are_what_the_settings_say(same_class, alike):
    regions = Regions.of([[0, 1, 4, 5], [], [1, 0, 4], [5, 6, 1]])
    student, teacher = randn(10, 6), randn(10, 6, seed=1)
    cfg = DistillConfig(negatives="batch", same_class=same_class, alike=alike)
    slow = slow_batch_loss(student, teacher, regions, cfg.tau, same_class, alike)
    assert local_loss(student, teacher, regions, cfg, SEEN).item() == pytest.approx(slow, rel=1e-4)


def test_a_class_does_not_repel_itself_across_images():
    # Both images show class 0; their teacher tokens differ. As negatives each would push the other's token away.
    regions, teacher = Regions.of([[0], [0]]), torch.tensor([[1.0, 0.2, 0], [1.0, 0, 0.2]])
    towards = {}
    for same_class in ("masked", "positive", "negative"):
        student = torch.tensor([[1.0, 0.5, 0], [0.3, 1, 0]], requires_grad=True)
        loss = local_loss(student, teacher, regions, DistillConfig(negatives="batch", same_class=same_class), SEEN)
        loss.backward()
        towards[same_class] = -(student.grad[0] @ teacher[1]).item()
    assert towards["negative"] < -0.01 and towards["masked"] == pytest.approx(0, abs=1e-6)
    assert towards["positive"] > 0.01


def test_a_concept_does_not_repel_itself_across_images_and_others_do():
    # Three latent regions, the first two of one concept. Their teacher tokens differ.
    teacher = torch.tensor([[1.0, 0.2, 0], [1.0, 0, 0.2], [0, 0.2, 1.0]])
    towards = {}
    for same_concept in ("negative", "masked", "positive"):
        student = torch.tensor([[1.0, 0.5, 0], [0.3, 1, 0], [0, 1, 0.5]], requires_grad=True)
        cfg = DistillConfig(negatives="batch", same_concept=same_concept)
        local_loss(student, teacher, Regions.of([[4], [5], [6]], [7, 7, 3]), cfg, SEEN).backward()
        towards[same_concept] = [-(student.grad[0] @ teacher[other]).item() for other in (1, 2)]
    assert towards["negative"][0] < -0.01 < 0.01 < towards["positive"][0]
    alone = torch.tensor([[1.0, 0.5, 0]], requires_grad=True)  # masked: as if the second region were not there
    both = torch.cat([alone, torch.tensor([[0.0, 1, 0.5]])])
    local_loss(both, teacher[[0, 2]], Regions.of([[4], [6]]), DistillConfig(negatives="batch"), SEEN).backward()
    assert towards["masked"][0] == pytest.approx(-(alone.grad[0] @ teacher[1]).item() * 2 / 3, rel=1e-4)
    # A region of an unknown concept is like none, not even like another unknown one.
    unknown, plain = Regions.of([[4], [5]], [-1, -1]), Regions.of([[4], [5]])
    masked, student = DistillConfig(negatives="batch", same_concept="masked"), randn(2, 3)
    assert torch.equal(
        local_loss(student, teacher[:2], unknown, masked, SEEN),
        local_loss(student, teacher[:2], plain, DistillConfig(negatives="batch"), SEEN),
    )


def test_regions_on_other_processes_count_as_those_of_other_images():
    regions, student, teacher = Regions.of([[0, 4], [1, 5], [0, 5], [6]]), randn(7, 6), randn(7, 6, seed=1)
    regions = Regions.of(regions.ids, [-1, 2, -1, 2, -1, 0, 0])
    for same_class, same_concept in (("masked", "positive"), ("positive", "masked")):
        cfg = DistillConfig(negatives="batch", same_class=same_class, same_concept=same_concept, alike=0.1)
        halves = []
        for first, last, own, other in ((0, 2, slice(0, 4), slice(4, 7)), (2, 4, slice(4, 7), slice(0, 4))):
            others = Others(teacher[other], regions.id[other], regions.concept[other])
            halves.append(local_loss(student[own], teacher[own], regions.part(first, last), cfg, SEEN, others))
        torch.testing.assert_close(torch.stack(halves).mean(), local_loss(student, teacher, regions, cfg, SEEN))


def test_near_duplicates_in_the_bank_are_no_negatives():
    bank = torch.tensor([[1.0, 0, 0], [0.99, 0.1, 0], [0, 1, 0], [0, 0, 0]])
    valid, positive, student = torch.tensor([True, True, True, False]), torch.tensor([0]), torch.tensor([[1.0, 0, 0]])
    kept = global_loss(student, bank[[0, 2]], valid[[0, 2]], positive, 0.07)
    torch.testing.assert_close(global_loss(student, bank, valid, positive, 0.07, alike=0.9), kept)
    assert global_loss(student, bank, valid, positive, 0.07) > kept + 0.5


def test_a_lower_temperature_pools_fewer_positions():
    features, teacher = randn(1, 8, 4, 4), randn(1, 8, seed=1)
    best = features.flatten(2)[0, :, (teacher @ features.flatten(2)[0]).argmax()]
    near = [(global_token(features, teacher, t)[0] - best).norm().item() for t in (1.0, 0.3, 0.01)]
    assert near[0] > near[1] > near[2] and near[2] < 1e-3


def test_an_image_with_one_region_adds_no_local_loss():
    student, teacher, cfg = randn(3, 4), randn(3, 4, seed=1), DistillConfig(negatives="image")
    both = local_loss(student, teacher, Regions.of([[0, 1], [0]]), cfg, SEEN)
    first = local_loss(student[:2], teacher[:2], Regions.of([[0, 1]]), cfg, SEEN)
    torch.testing.assert_close(both, first / 2)
    assert local_loss(student[2:], teacher[2:], Regions.of([[0]]), cfg, SEEN).item() == 0.0


@pytest.mark.parametrize("loss", ["infonce", "cosine", "l2", "froster"])
def test_a_batch_without_regions_has_a_local_loss_of_zero(loss):
    nothing = Regions.of([[], []])
    features = randn(2, 4, 2, 2).requires_grad_()
    means = region_means(features, torch.full((2, 4, 4), 255, dtype=torch.uint8), nothing)
    value = Distiller(DistillConfig(loss=loss), 4).local_loss(means, torch.zeros(0, 4), nothing, SEEN)
    assert value.item() == 0.0
    value.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def one_of_each(loss):
    """Student and teacher tokens of 60 degrees, lengths 2 and 3, as both a global and a local loss."""
    teacher = torch.tensor([[3.0, 0, 0]])
    student = torch.tensor([[1.0, math.sqrt(3), 0]])
    distiller = Distiller(DistillConfig(loss=loss), 3)
    features = student[:, :, None, None]
    local = distiller.local_loss(student, teacher, Regions.of([[0]]), SEEN)
    return distiller.global_loss(features, teacher).item(), local.item()


@pytest.mark.parametrize(
    ("loss", "wanted"), [("cosine", 0.5), ("l2", (4 + 3) / 3), ("froster", 1.0), ("none", 0.0), ("infonce", 0.0)]
)
def test_the_losses_of_table_4_by_hand(loss, wanted):
    assert one_of_each(loss) == pytest.approx((wanted, wanted), abs=1e-6)


def test_frosters_head_is_the_identity_at_first_and_learns():
    torch.manual_seed(0)
    head, z = Froster(6), randn(2, 6)
    unit = functional.normalize(z, dim=1)
    assert torch.equal(head(z), unit) and torch.allclose(head(7 * z), unit)  # the public code normalises its input
    assert [name for name, _ in head.named_parameters()] == ["mlp.0.weight", "mlp.2.weight"]
    with torch.no_grad():
        head.mlp[2].weight.copy_(torch.eye(6))
    torch.testing.assert_close(head(z), unit + 0.1 * functional.gelu(unit @ head.mlp[0].weight.T))


def test_frosters_first_layer_starts_by_kaiming_normal():
    torch.manual_seed(0)
    spread = Froster(256).mlp[0].weight.std().item()
    assert spread == pytest.approx((2 / 256) ** 0.5, rel=0.02)  # torch's own start for a linear layer: 0.036


def test_frosters_head_gets_a_gradient_though_it_starts_at_zero():
    distiller = Distiller(DistillConfig(loss="froster"), 4)
    distiller.global_loss(randn(2, 4, 2, 2), randn(2, 4, seed=1)).backward()
    assert distiller.froster.mlp[2].weight.grad.abs().max() > 0


@pytest.mark.parametrize("loss", ["infonce", "cosine", "l2", "froster"])
def test_global_and_local_can_be_switched_off_one_by_one(loss):
    regions = Regions.of([[0, 1]])

    def both(**switches):
        distiller = Distiller(DistillConfig(loss=loss, **switches), 4)
        distiller.global_loss(randn(2, 4, 2, 2, seed=5), randn(2, 4, seed=6))
        return (
            distiller.global_loss(randn(2, 4, 2, 2), randn(2, 4, seed=1)).item(),
            distiller.local_loss(randn(2, 4, seed=2), randn(2, 4, seed=3), regions, SEEN).item(),
        )

    both_on = both()
    assert min(both_on) > 0
    assert both(use_global=False) == (0.0, both_on[1]) and both(use_local=False) == (both_on[0], 0.0)


def test_the_banks_tokens_are_teachers_only_and_carry_no_gradient():
    distiller = Distiller(DistillConfig(), 4)
    features, teacher = randn(2, 4, 2, 2).requires_grad_(), randn(2, 4, seed=1).requires_grad_()
    for _ in range(2):
        distiller.global_loss(features, teacher).backward()
    assert not distiller.bank.tokens.requires_grad
    torch.testing.assert_close(distiller.bank.tokens[:4], torch.cat([teacher, teacher]).detach())
    assert features.grad.abs().sum() > 0


def test_autocast_changes_nothing():
    features, teacher, local = randn(2, 8, 4, 4), randn(2, 8, seed=1), randn(3, 8, seed=2)
    masks = torch.tensor([0, 1], dtype=torch.uint8).repeat(2, 8, 4)
    regions = Regions.of([[0, 1], [0]])
    for loss in ("infonce", "froster"):
        found = []
        for enabled in (False, True):
            torch.manual_seed(3)
            distiller = Distiller(DistillConfig(loss=loss), 8)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                means = region_means(features, masks, regions)
                found.append(
                    (distiller.global_loss(features, teacher), distiller.local_loss(means, local, regions, SEEN))
                )
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("bad", [{"tau": 0.0}, {"bank_size": 0}, {"loss": "kl"}, {"negatives": "world"}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        DistillConfig(**bad)
