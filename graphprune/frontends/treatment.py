"""What the verifier asks a frontend to do to the original model; see `docs/ir.md`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .chance import Draws


@dataclass(frozen=True)
class Index:
    """Gather along `axis` by `indices`: 1-d, or of the value's full rank for take-along-axis."""

    axis: int
    indices: np.ndarray


@dataclass
class Compaction:
    """Run one node on the kept indices only: inputs are gathered, outputs scattered back over zeros.

    `positions`: the integers of these outputs count along the gathered axis; they are replaced by original positions.
    """

    inputs: dict[int, list[Index]] = field(default_factory=dict)
    outputs: dict[int, list[Index]] = field(default_factory=dict)
    groups: int | None = None
    positions: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class Treatment:
    """Masks by value name (bool, broadcastable, True = kept) and compactions by node name.

    `bypass` names, for a computed value, an earlier one of the same shape that takes its place. `draws` are the
    numbers of random operators, for a model that takes them with it; a module is given them when it is run.
    """

    masks: dict[str, list[np.ndarray]] = field(default_factory=dict)
    compactions: dict[str, Compaction] = field(default_factory=dict)
    bypass: dict[str, str] = field(default_factory=dict)
    draws: Draws | None = None
