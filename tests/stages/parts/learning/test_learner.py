"""Claims about student and losses as one module; one golden training step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.benchmarks.checks.students import GENERATORS
from pipeline.config import load_config
from pipeline.study.ablate import TABLES
from stages.parts.learning.batches import Batch, Regions
from stages.parts.learning.distillation import region_means
from stages.parts.learning.generator import concept_classes
from stages.parts.learning.learner import Learner
from stages.parts.learning.losses import pixel_logits, pixel_loss
from stages.parts.learning.trainer import Trainer, make_optimiser
from stages.parts.settings import DistillConfig, GeneratorConfig, PixelLossConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[4]
D, SEEN, SIZE = 8, 2, 16
NONE = DistillConfig(loss="none")
OFF = GeneratorConfig(enabled=False)


class Net(nn.Module):
    """A student of stride 4 with an encoder and a head, as small as it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.GroupNorm(2, 6)
        self.head = nn.Conv2d(6, D, 1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(F.gelu(self.norm(self.encoder(images))))
        return out


def learner(
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    generator: GeneratorConfig = GeneratorConfig(),  # noqa: B008
    prototypes: Tensor | None = None,
) -> Learner:
    torch.manual_seed(0)
    net: Any = Net()
    text = F.normalize(torch.randn(SEEN, D, generator=torch.Generator().manual_seed(5)), dim=1)
    return Learner(net, text, distill, generator, PixelLossConfig(), prototypes)


def batch() -> Batch:
    """Three images: two seen classes and two latent ones; one seen class; one latent class and ignored pixels."""
    random = torch.Generator().manual_seed(1)
    masks = torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)
    masks[0, :8, :8], masks[0, :8, 8:], masks[0, 8:, :8], masks[0, 8:, 8:] = 0, 1, 2, 3
    masks[1] = 1
    masks[2, 4:] = 2
    return Batch(
        torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=random, dtype=torch.uint8),
        torch.zeros(3, 0),
        masks,
        torch.randn(3, D, generator=random),
        torch.randn(6, D, generator=random),
        Regions.of([[0, 1, 2, 3], [1], [2]]),
    )


def test_the_total_is_the_sum_of_its_terms() -> None:
    terms = learner()(batch())
    assert set(terms) == {"total", "global", "local", "focal", "dice", "cross_entropy"}
    assert all(t.dtype == torch.float32 and t.shape == () and torch.isfinite(t) for t in terms.values())
    total = sum(v.item() for k, v in terms.items() if k != "total")
    assert terms["total"].item() == pytest.approx(total, rel=1e-6)


def test_the_pixel_loss_sees_seen_and_latent_columns() -> None:
    one, sample = learner().eval(), batch()
    terms = one(sample)
    features = one.student(sample.student_input())
    means = region_means(features, sample.masks, sample.regions)
    assert one.generator is not None
    latent, filled = one.generator(means, sample.tokens, sample.local, sample.regions, SEEN)
    assert latent.shape == (3, 2, D) and filled.tolist() == [[True, True], [False, False], [True, False]]
    wanted = pixel_loss(pixel_logits(features, one.text, latent, filled, one.pixel), sample.masks, one.pixel)
    for name, value in wanted.items():
        assert terms[name].item() == value.item(), name


def test_without_latent_embedding_latent_pixels_are_ignored_pixels() -> None:
    one, sample = learner(NONE, OFF).eval(), batch()
    terms = one(sample)
    bare = Batch(**{**vars(sample), "masks": torch.where(sample.masks >= SEEN, 255, sample.masks).to(torch.uint8)})
    assert {k: v.item() for k, v in terms.items()} == {k: v.item() for k, v in one(bare).items()}


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: f"{g.inputs}-{g.calibrator}-{g.memory}")
def test_regions_of_one_concept_are_one_class_of_the_pixel_loss(generator: GeneratorConfig) -> None:
    generator = generator.model_copy(update={"dropout": 0.0})
    prototypes = F.normalize(torch.randn(3, D, generator=torch.Generator().manual_seed(7)), dim=1)
    sample = batch()
    first, last = Regions.of([[0, 1, 2, 3], [1], [2]], [-1, -1, 2, 2, -1, -1]), sample.local[[0, 1, 2, 4, 5]]
    # The same without the second region: its pixels are those of the first.
    masks = torch.where(sample.masks == 3, 2, sample.masks).to(torch.uint8)
    other = Regions.of([[0, 1, 2], [1], [2]], [-1, -1, 2, -1, -1])
    whole = replace(sample, masks=masks, local=last, regions=other)

    def terms(of: Batch, known: Tensor | None) -> dict[str, float]:
        one = learner(NONE, generator, known)
        found = one(of)
        found["total"].backward()
        slope = one.student.encoder.weight.grad
        return {name: value.item() for name, value in found.items()} | {"slope": float(slope.square().sum())}

    joined = terms(replace(sample, regions=first), prototypes)
    assert joined == pytest.approx(terms(whole, prototypes), rel=1e-4)
    if generator.enabled:
        apart = terms(replace(sample, regions=first), None)
        assert joined["cross_entropy"] != pytest.approx(apart["cross_entropy"], rel=1e-3)
        if generator.inputs != "prototypes" and generator.memory != "global":  # those read no token of a region
            assert joined["cross_entropy"] != pytest.approx(terms(whole, prototypes.roll(1, 0))["cross_entropy"])


def test_the_prototypes_leave_regions_and_their_distillation_alone() -> None:
    prototypes, sample = torch.eye(3, D), batch()
    shared = replace(sample, regions=Regions.of(sample.regions.ids, [-1, -1, 2, 2, -1, 2]))
    masks, local, counted = concept_classes(shared, prototypes)
    assert counted.tolist() == [True, True, True, False, True, True]
    # Id 2 of the third image is that image's own, though of the same concept.
    assert masks[0].unique().tolist() == [0, 1, 2] and masks[2].equal(sample.masks[2])
    torch.testing.assert_close(local[[0, 1, 4]], sample.local[[0, 1, 4]])
    torch.testing.assert_close(local[[2, 3, 5]], prototypes[2] * sample.local[[2, 3, 5]].norm(dim=1, keepdim=True))
    cfg = GeneratorConfig(dropout=0.0)
    one, plain = learner(generator=cfg, prototypes=prototypes), learner(generator=cfg)(sample)
    assert one(shared)["local"].item() == plain["local"].item()
    unknown = one.eval()(sample)  # no region is of a known concept
    assert {k: v.item() for k, v in unknown.items() if k != "global"} == pytest.approx(
        {k: v.item() for k, v in plain.items() if k != "global"} | {"total": unknown["total"].item()}
    )
    assert not any("prototypes" in name for name in one.state_dict())


def test_latent_classes_wait_for_their_delay() -> None:
    one, sample = learner(generator=GeneratorConfig(delay=5, dropout=0.0)).eval(), batch()
    bare = Batch(**{**vars(sample), "masks": torch.where(sample.masks >= SEEN, 255, sample.masks).to(torch.uint8)})
    off = learner(generator=OFF).eval()
    early, wanted = one(sample, 4), off(sample)
    pixel = ("focal", "dice", "cross_entropy")
    assert {k: early[k].item() for k in pixel} == pytest.approx({k: wanted[k].item() for k in pixel}, rel=1e-5)
    assert wanted["cross_entropy"].item() == off(bare)["cross_entropy"].item()
    early["total"].backward()
    grads = [p.grad for p in one.generator.parameters()]  # type: ignore[union-attr]
    assert all(g is not None and not g.any() for g in grads)  # there, for other processes, and zero
    late, always = one(sample, 5), learner(generator=GeneratorConfig(dropout=0.0)).eval()(sample)
    assert late["cross_entropy"].item() == one(sample)["cross_entropy"].item() == always["cross_entropy"].item()
    assert late["cross_entropy"].item() != early["cross_entropy"].item()


def test_the_generator_has_a_rate_of_its_own() -> None:
    one, cfg = learner(generator=GeneratorConfig(lr_multiplier=0.25)), TrainConfig(lr=1e-3, head_lr_multiplier=4.0)
    rates = {g["name"].split(",")[0]: g["lr"] for g in make_optimiser(one, cfg).param_groups}
    assert rates["generator"] == pytest.approx(1e-3) and rates["head"] == pytest.approx(4e-3)


def test_the_kept_student_is_the_moving_average() -> None:
    cfg = TrainConfig(iterations=9, warmup=0, batch=3, lr=0.01, ema=0.5)
    one = learner()
    trainer = Trainer(cfg, one, make_optimiser(one, cfg), torch.device("cpu"))
    average = {k: v.clone() for k, v in one.student.state_dict().items()}
    for step in range(4):
        trainer.step(step, batch())
        share = 1 - min(0.5, (1 + step) / (10 + step))
        average = {k: v + share * (one.student.state_dict()[k] - v) for k, v in average.items()}
    kept = trainer.student.state_dict()
    assert trainer.student is not one.student and set(trainer.modules()) == {"learner", "average"}
    assert all(torch.allclose(kept[k], v, atol=1e-6) for k, v in average.items())
    assert not torch.allclose(kept["head.weight"], one.student.state_dict()["head.weight"], atol=1e-4)
    plain = Trainer(TrainConfig(iterations=9, warmup=0), one, make_optimiser(one, cfg), torch.device("cpu"))
    assert plain.student is one.student and set(plain.modules()) == {"learner"}


def test_the_baseline_needs_no_tokens() -> None:
    sample = batch()
    empty = Batch(
        sample.images, sample.distortion, sample.masks, torch.zeros(3, 0), torch.zeros(0, 0), Regions.of([[], [], []])
    )
    terms = learner(NONE, OFF)(empty)
    assert set(terms) == {"total", "focal", "dice", "cross_entropy"}
    assert not learner(NONE, OFF).extras()


@pytest.mark.parametrize("loss", ["infonce", "cosine", "l2", "froster"])
def test_every_trainable_parameter_learns_from_every_loss(loss: Any) -> None:
    one = learner(DistillConfig(loss=loss))
    one(batch())["total"].backward()
    for name, parameter in one.named_parameters():
        if name == "distiller.froster.mlp.0.weight":
            continue  # behind a layer that starts at zero: it learns from the second step on
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("row", [row for table in TABLES.values() for row in table.values()], ids=str)
def test_every_row_of_the_papers_tables_takes_a_step(row: list[str]) -> None:
    config = load_config(str(ROOT / "experiments/voc_partial.toml"), row)
    one = learner(config.distill, config.latent_embedding)
    cfg = TrainConfig(iterations=2, warmup=0, batch=3)
    losses = Trainer(cfg, one, make_optimiser(one, cfg), torch.device("cpu")).step(0, batch())
    assert all(torch.isfinite(value) for value in losses.values())


def test_bf16_comes_close_to_fp32() -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        one = learner(generator=GeneratorConfig(dropout=0.0))
        cfg = TrainConfig(iterations=2, warmup=0, batch=3, precision=precision)  # type: ignore[arg-type]
        found[precision] = Trainer(cfg, one, make_optimiser(one, cfg), torch.device("cpu")).step(0, batch())
    for name, value in found["fp32"].items():
        assert found["bf16"][name].dtype == torch.float32
        assert found["bf16"][name].item() == pytest.approx(value.item(), rel=0.1), name


def test_an_image_without_any_label_adds_nothing_infinite() -> None:
    sample = batch()
    nothing = torch.full_like(sample.masks, 255)
    empty = Batch(sample.images, sample.distortion, nothing, sample.tokens, sample.local[:0], Regions.of([[], [], []]))
    terms = learner()(empty)
    terms["total"].backward()
    assert all(torch.isfinite(t) for t in terms.values())
    assert terms["local"].item() == 0 and terms["cross_entropy"].item() == 0


def test_the_text_embeddings_are_no_parameter_and_in_no_checkpoint() -> None:
    one = learner()
    assert not any("text" in name for name in one.state_dict())
    assert not any(p is one.text for p in one.parameters())
    assert one.text.shape == (SEEN, D)


def test_the_bank_is_kept_in_the_state_and_grows_by_the_batch() -> None:
    one, sample = learner(), batch()
    one(sample)
    state = one.state_dict()
    valid = next(v for k, v in state.items() if k.endswith("bank.valid"))
    assert int(valid.sum()) == 3


# -- golden training step ------------------------------------------------------------------------------------------

GOLDEN = {
    "image": {
        0: {
            "total": 131.00314,
            "global": 8.20743,
            "local": 1.44946,
            "focal": 119.42906,
            "dice": 0.50011,
            "cross_entropy": 1.41708,
        },
        1: {
            "total": 26.2441,
            "global": 0.84328,
            "local": 1.49002,
            "focal": 22.42432,
            "dice": 0.52287,
            "cross_entropy": 0.96361,
        },
    },
    "batch": {
        0: {
            "total": 136.11641,
            "global": 8.20743,
            "local": 6.56274,
            "focal": 119.42906,
            "dice": 0.50011,
            "cross_entropy": 1.41708,
        },
        1: {
            "total": 28.94619,
            "global": 0.83467,
            "local": 4.15414,
            "focal": 22.46377,
            "dice": 0.52391,
            "cross_entropy": 0.96971,
        },
    },
}


@pytest.mark.parametrize("negatives", GOLDEN)
def test_golden_training_step(negatives: Any) -> None:
    cfg = TrainConfig(iterations=4, warmup=1, batch=3, lr=0.02, max_grad_norm=1.0)
    # dropout draws other numbers on other processors
    one = learner(DistillConfig(negatives=negatives), GeneratorConfig(dropout=0.0))
    trainer = Trainer(cfg, one, make_optimiser(one, cfg), torch.device("cpu"))
    got = {step: {k: round(float(v), 5) for k, v in trainer.step(step, batch()).items()} for step in (0, 1)}
    for step, wanted in GOLDEN[negatives].items():
        assert got[step] == pytest.approx(wanted, rel=2e-4, abs=2e-4), (
            f"step {step} of a training run changed: {got}. If a formula, a default or the order of random numbers "
            "was changed on purpose, check the difference by hand, put these numbers into GOLDEN, and say in the "
            "commit that runs before it can't be compared with runs after it. If not, this is a bug."
        )
