"""How far a clustering agrees with labels (numpy only): purity and normalised mutual information."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def purity(labels: Ints, clusters: Ints) -> float:
    """Share of the items [n] that have the commonest label of their cluster; NaN without items."""
    table = _table(labels, clusters)
    return float(table.max(axis=0).sum() / table.sum()) if table.size else float("nan")


def mutual_information(labels: Ints, clusters: Ints) -> float:
    """Mutual information over the mean of the two entropies, in [0, 1], of items [n]; NaN without items.

    As scikit-learn's `normalized_mutual_info_score`: 1 where both are one group.
    """
    table = _table(labels, clusters)
    if not table.size:
        return float("nan")
    joint = table / table.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    mean = (_entropy(rows) + _entropy(columns)) / 2
    return 1.0 if mean < 1e-12 else float((_entropy(rows) + _entropy(columns) - _entropy(joint)) / mean)


def by_chance(labels: Ints, clusters: Ints, deals: int = 20) -> float:
    """`mutual_information` of clusters as large, dealt out to the items at random: mean of some deals, always the same.

    It grows with the number of clusters, up to that of the items themselves where each is a cluster.
    """
    random = np.random.default_rng(0)
    return float(np.mean([mutual_information(labels, random.permutation(clusters)) for _ in range(deals)]))


def _table(labels: Ints, clusters: Ints) -> Ints:
    """Items by label and cluster, [labels, clusters]."""
    if not len(labels):
        return np.zeros((0, 0), np.int64)
    (_, row), (_, column) = (np.unique(x, return_inverse=True) for x in (labels, clusters))
    table = np.zeros((row.max() + 1, column.max() + 1), np.int64)
    np.add.at(table, (row, column), 1)
    return table


def _entropy(shares: NDArray[np.float64]) -> float:
    held = shares[shares > 0]
    return float(-(held * np.log(held)).sum())
