"""Which inputs and outputs of a model are key-value caches: their heads may go with the heads of the attention.

The caller hands such a tensor from one run to the next and never looks inside; its size is the model's business. It is
told by what happens to it, not by its name: it is only put before new keys (or values) along their positions, the whole
is handed out again, and attention reads it. Keys and values of another sequence (cross-attention) do not grow: such a
cache is only read by attention, and handed out as it came.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import inner

_CONTRACTIONS = frozenset({"attention", "matmul", "einsum"})
#: What may lie between the cache and the contraction over it, or the model's output.
_MOVES = frozenset({"transpose", "reshape", "expand", "slice", "stack", "repeat_interleave"})
_SAME = frozenset({"identity", "cast", "mul", "dequantize"})
_MOST = 64

Readers = dict[Value, list[Node]]


def mark_caches(graph: Graph) -> None:
    """Set `Value.follows` on the inputs and outputs that are caches."""
    readers = _readers(graph)
    outputs = {v: v for v in graph.outputs}
    for value in graph.inputs:
        joined = _joined(value, readers.get(value, []), readers)
        if not joined:
            _mark_unchanged(value, readers, outputs)
            continue
        reached = [_reached(whole, readers) for whole in joined]
        handed = [v for found, _ in reached for v in found if v in outputs]
        if not handed or not all(contracted for _, contracted in reached):
            continue
        axis = value.rank - 4 + _heads(value, readers[value][0], readers)
        value.follows = frozenset({axis})
        for output in handed:
            if output.rank == value.rank:
                output.follows = frozenset({axis})


def _readers(graph: Graph) -> Readers:
    """The canonical operators that read each value; a body reads what it captures."""
    found: Readers = {}
    for node in graph.flat_nodes:
        for step in inner(node):
            for value in step.inputs:
                if value is not None:
                    found.setdefault(value, []).append(step)
    return found


def _joined(value: Value, steps: Sequence[Node], readers: Readers) -> list[Value]:
    """What comes out where the input is put before others along their positions; empty if anything else is done."""
    if value.shape is None or value.rank not in (4, 5) or value.dtype.kind != "f" or not steps:
        return []
    if value.rank == 5:  # keys and values in one tensor
        if any(step.kind != "select" or step.attrs["axis"] for step in steps):
            return []
        parts = [_joined(step.outputs[0], readers.get(step.outputs[0], []), readers) for step in steps]
        return [whole for part in parts for whole in part] if all(parts) else []
    past = [step for step in steps if step.kind == "concat" and step.attrs["axis"] in (1, 2)]
    if len(past) != len(steps) or any(len(step.inputs) != 2 or step.inputs[0] is not value for step in past):
        return []
    return [step.outputs[0] for step in past]


def _heads(value: Value, step: Node, readers: Readers) -> int:
    """The axis of heads, counted without the leading axis of a joint cache: the one of 1 and 2 that does not grow."""
    while step.kind == "select":
        step = readers[step.outputs[0]][0]
    return 3 - int(step.attrs["axis"])


def _reached(value: Value, readers: Readers) -> tuple[list[Value], bool]:
    """Everything that holds the same elements, moved; and whether some of it is contracted."""
    found: list[Value] = []
    contracted, queue = False, [value]
    while queue and len(found) < _MOST:
        current = queue.pop()
        found.append(current)
        for step in readers.get(current, []):
            contracted |= step.kind in _CONTRACTIONS
            queue += _moved(step)
    return found, contracted


def _moved(step: Node) -> Iterable[Value]:
    same = step.kind == "elementwise" and step.attrs["fn"] in _SAME
    return step.outputs if same or step.kind in _MOVES else ()


def _mark_unchanged(value: Value, readers: Readers, outputs: Collection[Value]) -> None:
    """A cache that is used whole: only contracted, each time with one axis for heads, and handed out as it came."""
    if value.shape is None or value.rank != 4 or value.dtype.kind != "f":
        return
    heads: set[int] = set()
    handed: list[Value] = []
    queue: list[tuple[Value, tuple[int, ...]]] = [(value, (0, 1, 2, 3))]
    for current, axes in queue:
        if current in outputs:
            if axes != (0, 1, 2, 3):
                return
            handed.append(current)
        for step in readers.get(current, []):
            if step.kind == "elementwise" and step.attrs["fn"] in ("identity", "cast"):
                queue.append((step.outputs[0], axes))
            elif step.kind == "transpose":
                queue.append((step.outputs[0], tuple(axes[a] for a in step.attrs["perm"])))
            elif _attends(step, current):
                heads.add(axes[1])
            elif step.kind != "shape_math":
                return
    if len(heads) == 1 and handed:
        for one in (value, *handed):
            one.follows = frozenset(heads)


def _attends(step: Node, value: Value) -> bool:
    """Whether a step contracts a value of four axes, the second of which are heads."""
    if step.kind == "attention":
        return value not in (step.inputs[0], *step.inputs[3:])
    return step.kind == "matmul" and step.outputs[0].shape is not None and step.outputs[0].rank == 4
