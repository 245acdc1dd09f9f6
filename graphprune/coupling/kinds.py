"""Kinds of components within a group: what lies on the same weight axes, equally often.

The score of a component is a sum over the weights that it lies on. Where an axis is split into pieces that go different
ways (one only passed on, one through residual blocks), these sums are unlike and say nothing about one another: only
components of one kind are compared.
"""

from __future__ import annotations

import numpy as np

from graphprune.ops.base import Array

from .couple import Coupling

#: A kind with fewer components in its group than this is compared with all other such (behind channel shuffles
#: nearly every channel is of a kind of its own, and a share of one means nothing).
_LEAST = 4


def kinds(coupling: Coupling) -> Array:
    """For each component a number that those of its group and kind share."""
    axes = [own for use, _, own in coupling.axes() if use.value.weight is not None and use.value.weight.trainable]
    numbers = np.random.default_rng(0).random(len(axes))
    met = np.concatenate([np.zeros(0, np.int64), *axes])
    sign = np.bincount(met, np.repeat(numbers, [len(own) for own in axes]), coupling.count)
    order = np.lexsort((sign, coupling.group_of))
    own, group = sign[order], coupling.group_of[order]
    new = np.concatenate([[0], (own[1:] != own[:-1]) | (group[1:] != group[:-1])])
    found = np.empty(coupling.count, np.int64)
    found[order] = np.cumsum(new)
    few = np.bincount(found)[found] < _LEAST
    found[few] = coupling.count + 1 + coupling.group_of[few]
    return np.unique(found, return_inverse=True)[1].reshape(-1)
