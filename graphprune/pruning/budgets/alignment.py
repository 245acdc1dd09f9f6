"""Channel counts that runtimes run fast, and where a result has others.

In onnxruntime on CPUs a convolution whose channels are no multiple of 4 leaves the blocked layout: a depthwise one
takes more than twice as long (`docs/measurements/alignment.md`). Within that layout counts up to the next multiple of 8
or 16 cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphprune.ir.graph import Graph, Node

#: Kept counts of global budgets are rounded up to a multiple of this.
GLOBAL_ALIGN = 8
#: A fixed share is rounded to the nearest multiple of the first of these that changes it by at most so much.
FIXED_ALIGN = ((8, 1 / 40), (4, 1 / 16))
#: A convolution's channels must be a multiple of this, or it runs without its fast kernels.
VECTOR = 4


def quantum(align: int, steps: Sequence[int]) -> int:
    """How many units go at a time so that counts are multiples of `align`, where one unit is so many channels of each
    group (`steps`).
    """
    return math.lcm(*(align // math.gcd(align, step) for step in steps))


def round_up(count: int, quantum: int, size: int) -> int:
    """The next multiple of `quantum`, but not beyond `size`."""
    return min(size, -(-count // quantum) * quantum)


def fixed_count(ratio: float, units: int, align: int | None, steps: Sequence[int]) -> int:
    """How many of `units` are the part `ratio`, rounded up to `align`; where none is asked for, to a near count that
    runtimes run fast, of two as near the lower.
    """
    exact = min(units, max(1, math.floor(ratio * units + 0.5)))
    if align is not None:
        return round_up(exact, quantum(align, steps), units)
    for step, most in FIXED_ALIGN:
        size = quantum(step, steps)
        near = math.ceil(ratio * units / size - 0.5) * size
        if 0 < near < units and abs(near - ratio * units) <= most * units:
            return near
    return exact


def slow_kernels(before: Graph, after: Graph) -> list[str]:
    """A sentence where convolutions have channel counts that cost them their fast kernels, and had others before."""
    was = {node.name: _channels(node) for node in before.flat_nodes if node.kind == "conv"}
    slow = []
    for node in after.flat_nodes:
        if node.kind == "conv" and node.name in was:
            counts = zip(was[node.name], _channels(node), strict=False)
            slow += [(node.name, new) for old, new in counts if new % VECTOR and not old % VECTOR][:1]
    if not slow:
        return []
    name, count = slow[0]
    return [
        f"{len(slow)} of {len(was)} convolutions have a number of channels now that is no multiple of {VECTOR} "
        f"(first '{name}', {count}), for which runtimes have no fast kernels; align={VECTOR} or more avoids that"
    ]


def _channels(node: Node) -> list[int]:
    """Channels that a convolution reads and makes, where its shapes are known."""
    return [v.sizes[1] for v in (node.inputs[0], node.outputs[0]) if v is not None and v.shape is not None]
