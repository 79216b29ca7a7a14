"""How far experts and classes of tokens agree, from the table of how often they meet."""

from typing import NamedTuple

import numpy as np


class Agreement(NamedTuple):
    """Of one table of experts by classes.

    Attributes:
        nmi: 2 I / (H(experts) + H(classes)), mutual information by entropies: 0 where experts say
            nothing about classes, 1 where each says all about the other.
        purity: the share of tokens whose class is the commonest one of their expert.
        effective: exp H(experts), the number of experts in use.
        imbalance: the largest load over the mean one.
    """

    nmi: float
    purity: float
    effective: float
    imbalance: float


def agreement(table: np.ndarray) -> Agreement:
    """Of the counts (E, C) of each expert's tokens by class.

    Raises:
        ValueError: no matrix of counts with at least one token.

    Example:
        >>> [f"{x:.2f}" for x in agreement(np.array([[3, 0], [0, 3], [0, 0]]))]
        ['1.00', '1.00', '2.00', '1.50']
    """
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or not table.sum() > 0:
        raise ValueError(f"table must be (experts, classes) with some tokens, got {table.shape}")
    joint = table / table.sum()
    load, kind = joint.sum(1), joint.sum(0)
    experts, classes = _entropy(load), _entropy(kind)
    both = experts + classes
    information = both - _entropy(joint.ravel())
    return Agreement(
        nmi=2 * information / both if both > 0 else 1.0,
        purity=float(joint.max(1).sum()),
        effective=float(np.exp(experts)),
        imbalance=float(load.max() * len(load)),
    )


def by_chance(table: np.ndarray, rng: np.random.Generator) -> Agreement:
    """The same where as many tokens go to each expert, but which ones is drawn at random."""
    table = np.asarray(table)
    loads, left = table.sum(1), table.sum(0)
    drawn = np.zeros_like(table)
    for index, size in enumerate(loads):
        drawn[index] = rng.multivariate_hypergeometric(left, size)
        left = left - drawn[index]
    return agreement(drawn)


def ceiling(table: np.ndarray) -> float:
    """The NMI of experts with these loads that told all about the class: 2 H(c) / (H(e) + H(c))."""
    share = np.asarray(table, np.float64) / np.sum(table)
    experts, classes = _entropy(share.sum(1)), _entropy(share.sum(0))
    return 2 * min(experts, classes) / (experts + classes) if experts + classes > 0 else 1.0


def _entropy(share: np.ndarray) -> float:
    some = share[share > 0]
    return float(-np.sum(some * np.log(some)))
