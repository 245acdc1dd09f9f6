"""How large the values of a graph become on calibration data, and the sums that operators form inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from graphprune import frontends
from graphprune.calibration.samples import Flow, Samples
from graphprune.errors import InputError
from graphprune.frontends.summing import Summing
from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops.base import Array

WIDE = np.dtype(np.float32)

#: Numbers beyond this stand for infinity (what masks are filled with).
ENDLESS = 1e30

#: Elements, over all samples, that are looked at together.
_MOST_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Ranges:
    """Largest magnitudes by the name of a value: of the value itself, and of what its operator sums up to make it.

    What stands for infinity does not count.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[str, float] = field(default_factory=dict)


def measure(graph: Graph, samples: Samples, say: Callable[[str], None] = lambda _: None) -> Ranges:
    """Run a graph in float32 on samples, part by part, so that few of its values are held at once.

    Raises InputError for samples that are not finite: they say nothing of ranges.
    """
    _expect_finite(samples)
    values, consumers = _measurable(graph), graph.consumers()
    groups = _groups(values, samples)
    flow = Flow(graph, samples, groups)
    peaks: dict[str, float] = defaultdict(float)
    sums: dict[str, float] = defaultdict(float)
    for number, group in enumerate(groups):
        say(f"measuring ranges ({number + 1} of {len(groups)})")
        flow.advance()
        for value in group:
            summed = _summed(graph, consumers.get(value, []), value)
            for array in flow.values(value):
                sizes = _finite(array)
                peaks[value.name] = max(peaks[value.name], float(sizes.max(initial=0.0)))
                for node, how in summed:
                    name = node.outputs[0].name
                    sums[name] = max(sums[name], largest_sum(sizes, how))
    return Ranges(dict(peaks), dict(sums))


def _expect_finite(samples: Samples) -> None:
    for batch in samples.batches:
        for name, array in batch.items():
            if array.dtype == WIDE and not np.isfinite(array).all():
                raise InputError(f"the calibration data for '{name}' hold numbers that are not finite")


def _measurable(graph: Graph) -> list[Value]:
    """The float32 values that the outputs depend on, in order: others are not written."""
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.reads())
    made = [*graph.inputs, *(value for node in graph.nodes for value in node.outputs)]
    return [value for value in made if value.dtype == WIDE and value in needed]


def _groups(values: Sequence[Value], samples: Samples) -> list[list[Value]]:
    """Neighbours, as many together as may be held."""
    found: list[list[Value]] = [[]]
    held = 0
    for value in values:
        size = _MOST_ELEMENTS if value.shape is None else prod(value.sizes[1:]) * samples.count
        if found[-1] and held + size > _MOST_ELEMENTS:
            found.append([])
            held = 0
        found[-1].append(value)
        held += size
    return found


def _summed(graph: Graph, readers: Sequence[Node], value: Value) -> list[tuple[Node, Summing]]:
    """The nodes that sum a value up, and how."""
    own = [node for node in dict.fromkeys(readers) if node.inputs and node.inputs[0] is value]
    found = ((node, frontends.of(graph).sums(node)) for node in own)
    return [(node, how) for node, how in found if how is not None]


def _finite(array: Array) -> Array:
    """Magnitudes; zero for what is no number or stands for infinity."""
    sizes = np.abs(array)
    return np.where(sizes < ENDLESS, sizes, np.zeros((), sizes.dtype))


def largest_sum(sizes: Array, how: Summing) -> float:
    """The most that a sum, in whatever order it is taken, may reach on its way."""
    powers = sizes.astype(np.float64) ** how.power
    whole = float(powers.sum(tuple(how.axes)).max(initial=0.0))
    return whole if how.terms is None else min(whole, how.terms * float(powers.max(initial=0.0)))
