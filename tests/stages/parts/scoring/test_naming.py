"""Claims about naming and agreement: a right word is found under a bias that all share; a wrong list is admitted."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from cache.vectors import unit
from stages.parts.scoring.agreement import by_chance, mutual_information, purity
from stages.parts.scoring.naming import FALLBACK, learn, same

D, WORDS = 48, [f"word {i}" for i in range(60)]
RANDOM = np.random.default_rng(0)
TEXT = unit(RANDOM.normal(size=(60, D)))


def seen_as(text: np.ndarray, noise: float = 0.05) -> np.ndarray:
    """Tokens of what the words with these embeddings mean: a little of the word, and much that all pictures share."""
    shared = 5 * TEXT[:8].sum(axis=0)  # which is near to some words whatever is shown
    return unit(shared + 4 * text + noise * RANDOM.normal(size=text.shape))


def naming(words: list[str] = WORDS, text: np.ndarray = TEXT):
    seen = unit(RANDOM.normal(size=(12, D)))
    tokens = seen_as(seen)
    common = np.concatenate([tokens, seen_as(TEXT[20:40])]).mean(axis=0)
    return learn(words, text, common, [f"class {i}" for i in range(12)], tokens, seen)


def test_the_right_word_wins_although_others_are_near_to_everything() -> None:
    made, right = naming(), range(40, 55)
    named = made.name(seen_as(TEXT[40:55]))
    assert [one.words[0][0] for one in named] == [WORDS[i] for i in right]
    assert all(one.margin > 0 and not one.near_seen for one in named)
    assert sum(one.explained for one in named) >= 12  # the threshold leaves out a tenth of what is right
    plain = (seen_as(TEXT[40:55]) @ TEXT.T).argmax(axis=1)  # what the bias does without the correction
    assert (plain != np.array(right)).any()


def test_what_no_word_means_is_not_called_by_the_nearest_one() -> None:
    nameless = seen_as(unit(RANDOM.normal(size=(20, D))))
    explained = [one.explained for one in naming().name(nameless)]
    assert sum(explained) <= 4


def test_words_that_the_teacher_does_not_know_and_names_of_seen_classes_are_no_candidates() -> None:
    unknown = np.repeat(RANDOM.normal(size=(1, D)), 3, axis=0)
    made = naming([*WORDS, "a", "b", "c", "Class-3"], np.concatenate([TEXT, unknown, RANDOM.normal(size=(1, D))]))
    assert made.words == tuple(WORDS) and made.unusable == 3
    assert same("Potted-Plant") == same("pottedplant")


def test_a_thing_that_has_labels_is_said_to_be_near_its_class() -> None:
    made = naming()
    one = made.name(seen_as(made.seen_text[3:4]))[0]
    assert one.near_seen == "class 3" and one.words[0][0] in WORDS


def test_few_seen_classes_teach_no_threshold() -> None:
    made = learn(WORDS, TEXT, TEXT.mean(axis=0), ["x"], TEXT[:1], TEXT[:1])
    assert made.least == FALLBACK


def test_agreement_is_scikit_learns() -> None:
    labels, clusters = RANDOM.integers(0, 5, 200), RANDOM.integers(0, 9, 200)
    assert mutual_information(labels, clusters) == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert mutual_information(labels, labels) == pytest.approx(1) and purity(labels, labels) == 1
    assert purity(np.array([0, 0, 1, 1]), np.array([7, 7, 7, 9])) == 0.75
    assert np.isnan(purity(labels[:0], labels[:0])) and np.isnan(mutual_information(labels[:0], labels[:0]))
    assert mutual_information(np.zeros(4, int), np.zeros(4, int)) == 1
    # Of random clusters all agreement is chance, of many as of few; of islands it is the same in whatever order.
    found, chance = mutual_information(labels, clusters), by_chance(labels, clusters)
    adjusted = adjusted_mutual_info_score(labels, clusters)
    assert (found - chance) / (1 - chance) == pytest.approx(adjusted, abs=0.005) and chance > 0.03
    assert by_chance(labels, np.arange(200)) == pytest.approx(mutual_information(labels, np.arange(200)))
