"""Claims about concepts: planted groups are found, their number too, and a region between two is said to be."""

from __future__ import annotations

import numpy as np
import pytest

from cache.vectors import unit
from stages.parts.mining.concepts import ConceptsConfig, assign, cluster, ladder

D = 16


def planted(count: int, each: int, *, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [count * each, D] around `count` directions, all of any length, on one large common part; their groups."""
    random = np.random.default_rng(seed)
    centres = unit(random.normal(size=(count, D)))
    group = np.repeat(np.arange(count), each)
    tokens = 3 + centres[group] + noise * random.normal(size=(len(group), D))
    return (tokens * random.uniform(0.5, 2, (len(group), 1))).astype(np.float32), group


def same_groups(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs})


@pytest.mark.parametrize("count", [0, 6])
def test_planted_groups_are_found_and_so_is_their_number(count: int) -> None:
    tokens, group = planted(6, 60)
    concepts, judged = cluster(tokens, ConceptsConfig(count=count, agreement=0.97))
    which, cosine, confidence = assign(tokens, concepts)
    assert len(concepts) == 6 and same_groups(which, group)
    assert bool(judged) == (count == 0) and cosine.mean() > 0.8 and confidence.mean() > 0.7


def test_numbers_that_two_halves_do_not_agree_on_are_not_chosen() -> None:
    tokens, _ = planted(6, 60)
    concepts, judged = cluster(tokens, ConceptsConfig())
    strength = {one.count: one.strength for one in judged}
    assert strength[6] == 1 and strength[6] > strength[11] > strength[max(strength)] and max(strength) < 90
    assert len(concepts) == max(k for k, found in strength.items() if found >= 0.5)
    noise = np.random.default_rng(0).normal(size=(400, D)).astype(np.float32)
    assert len(cluster(noise, ConceptsConfig())[0]) == 4  # nothing to agree on: the fewest


def test_the_same_tokens_give_the_same_bytes_and_another_seed_may_not() -> None:
    tokens, _ = planted(5, 40, noise=0.6)
    first, again, other = (cluster(tokens, ConceptsConfig(count=5, seed=s))[0] for s in (0, 0, 1))
    assert first.centroid.tobytes() == again.centroid.tobytes() and first.token.tobytes() == again.token.tobytes()
    assert first.centroid.tobytes() != other.centroid.tobytes()


def test_largest_concepts_come_first_and_all_are_unit() -> None:
    tokens, group = planted(3, 50)
    tokens = tokens[(group == 0) | ((group == 1) & (np.arange(150) < 70)) | (group == 2)]
    concepts, _ = cluster(tokens, ConceptsConfig(count=3))
    sizes = np.bincount(assign(tokens, concepts)[0])
    assert sizes.tolist() == [50, 50, 20]
    np.testing.assert_allclose(np.linalg.norm(concepts.centroid, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(concepts.token, axis=1), 1, atol=1e-5)


def test_confidence_is_one_at_a_centroid_and_none_half_way() -> None:
    tokens, _ = planted(2, 50)
    concepts, _ = cluster(tokens, ConceptsConfig(count=2, centre=False))
    a, b = concepts.centroid
    _, _, confidence = assign(np.stack([a, unit(a + b)]), concepts)
    assert confidence[0] == pytest.approx(1, abs=1e-3) and confidence[1] == pytest.approx(0, abs=1e-3)
    assert assign(np.zeros((0, D), np.float32), concepts)[0].shape == (0,)


def test_fewer_different_tokens_than_concepts_are_no_trouble() -> None:
    tokens = np.repeat(planted(3, 1)[0], 4, axis=0)
    concepts, _ = cluster(tokens, ConceptsConfig(count=8, centre=False))
    assert len(concepts) == 3
    one, _ = cluster(tokens[:1], ConceptsConfig(count=0))
    assert len(one) == 1 and assign(tokens[:1], one)[2].tolist() == [1.0]


def test_the_ladder_ends_where_concepts_would_have_too_few_regions() -> None:
    assert ladder(10_000, 64) == [4, 6, 8, 11, 16, 23, 32, 45, 64]
    assert ladder(100, 512) == [4, 6, 8, 11, 16, 23, 25] and ladder(3, 512) == [1]


def test_tokens_that_are_no_numbers_are_refused() -> None:
    tokens, _ = planted(2, 5)
    tokens[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        cluster(tokens, ConceptsConfig())
    with pytest.raises(ValueError, match="no token"):
        cluster(tokens[:0], ConceptsConfig())
