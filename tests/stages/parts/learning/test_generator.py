"""Latent embedding generation (method.md section 4, the paper's Sec. 3.3, Tables 5 and 6)."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stages.parts.learning.batches import Regions
from stages.parts.learning.generator import GeneratorConfig, LatentGenerator

K_SEEN, DIM = 3, 16
# Image 0: seen 1, latent 0 and 1. Image 1: seen 0 alone. Image 2: latent 0, and latent 2 with a gap before it.
REGIONS = Regions.of([[1, 3, 4], [0], [3, 5]])
TABLE_6 = [("prototypes", "none"), ("prototypes", "mlp"), ("cls", "none"), ("cls", "mlp"), ("both", "transformer")]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(seed=0, **settings):
    torch.manual_seed(seed)
    return LatentGenerator(GeneratorConfig(**settings), DIM).eval()


def tokens():
    return {
        "means": randn(6, DIM),
        "global_tokens": randn(3, DIM, seed=1),
        "local_tokens": randn(6, DIM, seed=2),
        "regions": REGIONS,
    }


def test_the_transformer_has_the_parameters_of_the_papers_table_2():
    generator = LatentGenerator(GeneratorConfig(), 512)
    assert sum(p.numel() for p in generator.parameters()) == 4_204_032
    assert generator.layer.self_attn.num_heads == 8


@pytest.mark.parametrize(("dim", "heads"), [(512, 8), (12, 6), (7, 7), (11, 1), (20, 5)])
def test_heads_are_the_most_up_to_eight_that_divide_the_embedding(dim, heads):
    assert LatentGenerator(GeneratorConfig(), dim).layer.self_attn.num_heads == heads


@pytest.mark.parametrize(("inputs", "calibrator"), TABLE_6)
def test_the_column_of_an_embedding_is_its_latent_id(inputs, calibrator):
    latent, filled = make(inputs=inputs, calibrator=calibrator)(**tokens(), num_seen=K_SEEN)
    assert latent.shape == (3, 3, DIM)
    assert filled.tolist() == [[True, True, False], [False] * 3, [True, False, True]]
    assert latent.isfinite().all()


def test_without_a_calibrator_embeddings_are_the_inputs_themselves():
    given = tokens()
    for inputs, name in (("prototypes", "means"), ("cls", "local_tokens")):
        latent, _ = make(inputs=inputs, calibrator="none")(**given, num_seen=K_SEEN)
        torch.testing.assert_close(latent[0, :2], given[name][1:3])
        torch.testing.assert_close(latent[2, [0, 2]], given[name][4:])


@pytest.mark.parametrize("inputs", ["prototypes", "cls"])
def test_the_mlp_maps_each_input_alone(inputs):
    generator, given = make(inputs=inputs, calibrator="mlp"), tokens()
    latent, _ = generator(**given, num_seen=K_SEEN)
    source = given["means" if inputs == "prototypes" else "local_tokens"]
    torch.testing.assert_close(latent[2, 2], generator.layer(source[5]))


@pytest.mark.parametrize("memory", ["both", "local", "global"])
def test_a_batch_gives_what_each_image_alone_and_unpadded_gives(memory):
    generator, given = make(memory=memory), tokens()
    latent, _ = generator(**given, num_seen=K_SEEN)
    for image, ids in ((0, [0, 1]), (2, [0, 2])):
        own = REGIONS.image == image
        queries = given["means"][own & (REGIONS.id >= K_SEEN)]
        parts = {"global": [given["global_tokens"][image, None]], "local": [given["local_tokens"][own]]}
        parts["both"] = parts["global"] + parts["local"]
        alone = generator.layer(queries[None], torch.cat(parts[memory])[None])[0]
        torch.testing.assert_close(latent[image, ids], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("memory", "reads"), [("both", {"global", "local"}), ("local", {"local"}), ("global", {"global"})]
)
def test_the_memory_setting_says_which_teacher_tokens_are_read(memory, reads):
    generator, given = make(memory=memory), tokens()
    before, _ = generator(**given, num_seen=K_SEEN)
    for kind in ("global", "local"):
        after, _ = generator(**{**given, f"{kind}_tokens": given[f"{kind}_tokens"] + 1}, num_seen=K_SEEN)
        assert (not torch.equal(after[0, :2], before[0, :2])) == (kind in reads)


def test_the_tokens_of_another_image_never_reach_an_embedding():
    generator, given = make(), tokens()
    before, _ = generator(**given, num_seen=K_SEEN)
    other = {k: given[k].clone() for k in ("means", "local_tokens", "global_tokens")}
    for name in ("means", "local_tokens"):
        other[name][3:] += 5
    other["global_tokens"][1:] += 5
    after, _ = generator(**{**given, **other}, num_seen=K_SEEN)
    assert torch.equal(after[0, :2], before[0, :2]) and not torch.equal(after[2, 0], before[2, 0])


@pytest.mark.parametrize(("inputs", "calibrator"), TABLE_6)
def test_a_batch_without_latent_regions_is_finite_and_reaches_every_parameter(inputs, calibrator):
    generator, given = make(inputs=inputs, calibrator=calibrator), tokens()
    given["regions"] = Regions.of([[0, 1, 2], [0], [0, 1]])
    latent, filled = generator(**given, num_seen=K_SEEN)
    assert latent.shape == (3, 1, DIM) and not filled.any() and latent.isfinite().all()
    if generator.layer is not None:
        latent.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


@pytest.mark.parametrize("memory", ["both", "local", "global"])
def test_no_attention_is_over_nothing(memory):
    # On some devices' kernels a softmax over nothing is NaN, and NaN times a gradient of zero is NaN.
    generator, given, masks = make(memory=memory), tokens(), {}
    generator.layer.register_forward_pre_hook(lambda _, __, named: masks.update(named), with_kwargs=True)
    given |= {k: torch.cat([v[:3], v[4:]]) for k, v in given.items() if k in ("means", "local_tokens")}
    given["regions"] = Regions.of([[1, 3, 4], [], [3, 5]])
    generator(**given, num_seen=K_SEEN)
    assert set(masks) == {"tgt_key_padding_mask", "memory_key_padding_mask"}
    assert not any(mask.all(dim=1).any() for mask in masks.values())


def test_a_batch_without_any_region_is_finite():
    for memory in ("both", "local", "global"):
        latent, filled = make(memory=memory)(
            torch.zeros(0, DIM), randn(2, DIM), torch.zeros(0, DIM), Regions.of([[], []]), K_SEEN
        )
        assert latent.isfinite().all() and not filled.any()


def test_gradients_reach_the_student_through_the_prototypes():
    given = tokens()
    given["means"].requires_grad_()
    latent, filled = make()(**given, num_seen=K_SEEN)
    # Not the plain sum: the layer norm at the end keeps that constant.
    latent[filled].square().mul(randn(4, DIM, seed=3)).sum().backward()
    moved = given["means"].grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [False, True, True, False, True, True]


def test_dropout_works_in_training_alone_and_repeats_with_the_seed():
    generator, given = make(dropout=0.5), tokens()
    assert torch.equal(generator(**given, num_seen=K_SEEN)[0], generator(**given, num_seen=K_SEEN)[0])
    generator.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(generator(**given, num_seen=K_SEEN)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_autocast_keeps_embeddings_finite_and_close():
    generator, given = make(), tokens()
    exact, filled = generator(**given, num_seen=K_SEEN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = generator(**given, num_seen=K_SEEN)
    torch.testing.assert_close(rough.float()[filled], exact[filled], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("bad", [{"calibrator": "mlp"}, {"inputs": "cls"}, {"dropout": 1.0}, {"memory": "none"}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        GeneratorConfig(**bad)
