"""How much a block matters. A score is a function from a block to a number; the smaller, the sooner it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from graphprune.registry import pick

from .data import Block

#: What a criterion computes for a block, not yet relative to others of its structure.
Score = Callable[[Block], float]


def weight_norm(block: Block) -> float:
    """The root mean square of the elements of its trainable matrices and kernels (rank two or more)."""
    total, count = 0.0, 0
    for value in (*block.weights, *block.shared):
        weight = value.weight
        if weight is not None and weight.trainable and len(weight.shape) > 1:
            array = weight.array().astype(np.float32, copy=False).reshape(-1)
            total += float(np.dot(array, array))
            count += weight.size
    return float(np.sqrt(total / count)) if count else 0.0


SCORES: dict[str, Score] = {"norm": weight_norm}


def score(blocks: Sequence[Block], how: str | Score = "norm") -> list[Block]:
    """The blocks with their scores: each divided by the mean over the blocks of its kind and structure.

    `how` names a criterion of `SCORES` or is one; raises InputError for an unknown name.
    """
    criterion = SCORES[pick("block criterion", how, sorted(SCORES))] if isinstance(how, str) else how
    raw = [criterion(block) for block in blocks]
    alike: dict[tuple[str, str], list[float]] = {}
    for block, value in zip(blocks, raw, strict=True):
        alike.setdefault((block.kind, block.structure), []).append(value)
    means = {key: float(np.mean(values)) for key, values in alike.items()}
    return [
        replace(block, score=value / means[block.kind, block.structure] if means[block.kind, block.structure] else 1.0)
        for block, value in zip(blocks, raw, strict=True)
    ]
