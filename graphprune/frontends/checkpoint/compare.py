"""Whether two captured graphs are the same computation: operator by operator, with the same sizes and constants; or,
where passes have simplified one of them, by what they compute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from graphprune.ir.graph import Graph, Node, Value

from ..chance import Full, Left
from ..torch.module.emission import difference
from ..torch.origin import Source
from ..torch.run.drawing import is_random
from ..torch.run.execute import instrument, random_inputs, run
from ..torch.write.graph_module import takes
from ..treatment import Treatment

# Their attributes say little; what they were called with says the rest.
_BY_CALL = frozenset({"unknown", "fill", "spatial", "axiswise", "recurrent"})


def mismatch(one: Graph, other: Graph, names: Mapping[str, str], *, scales: bool = False) -> tuple[int, str]:
    """The first difference between a rewritten graph and a captured one: at which operator, and in words (nothing
    where there is none).

    `names` gives the other graph's name of a tensor where it is another. With `scales`, numbers that values are
    multiplied by may differ.
    """
    if len(one.nodes) != len(other.nodes):
        return -1, f"it has {len(other.nodes)} operators instead of {len(one.nodes)}"
    twin: dict[Value, Value] = dict(zip(one.inputs, other.inputs, strict=True))
    for at, (mine, theirs) in enumerate(zip(one.nodes, other.nodes, strict=True)):
        problem = _differ(mine, theirs, twin, names, "" if not scales else _scale(mine))
        if problem:
            return at, f"at {mine.op} ({mine.name}) {problem}"
        twin.update(zip(mine.outputs, theirs.outputs, strict=True))
    if [twin.get(v) for v in one.outputs] != list(other.outputs):
        return len(one.nodes), "its results are others"
    return len(one.nodes) + 1, ""


def same_constants(mine: Node, theirs: Node) -> bool:
    """Whether two operators compute with the same numbers: written into them, or in tensors that no file holds."""
    if mine.op != theirs.op or not _same(mine.attrs.get("scalars"), theirs.attrs.get("scalars")):
        return False
    pairs = [(a.weight, b.weight) for a, b in zip(mine.inputs, theirs.inputs, strict=True) if a and b]
    fixed = [(a, b) for a, b in pairs if a is not None and b is not None and not a.trainable and not a.lazy]
    return all(a.shape == b.shape and _same(a.array(), b.array()) for a, b in fixed)


def same_numbers(one: Graph, other: Graph, names: Mapping[str, str], saved: Collection[str]) -> bool:
    """Whether the other graph, given the weights of the first that a file would bring, computes the same on random
    inputs. What is not `saved` (in a state dict) each model computes for itself from its configuration.
    """
    weights = {names.get(name, name): value.weight for name, value in one.weights().items()}
    for name, value in other.weights().items():
        if name not in saved or value.weight is None:
            continue
        given = weights.get(name)
        if given is None or given.shape != value.weight.shape:
            return False
        value.weight = given
    inputs = random_inputs(one, 1)
    full = Full()
    scripts = (full, Left(full)) if is_random(one) else (None, None)
    expected, found = (
        run(instrument(graph, Treatment()), inputs, script=script)
        for graph, script in zip((one, other), scripts, strict=True)
    )
    return not difference(found, expected)


def _scale(node: Node) -> str:
    """The attribute that holds a number which values are multiplied by."""
    return "scale" if node.kind == "attention" else "scalars" if node.attrs.get("fn") in ("mul", "div") else ""


def _differ(mine: Node, theirs: Node, twin: Mapping[Value, Value], names: Mapping[str, str], free: str) -> str:
    if (mine.kind, mine.op, len(mine.inputs)) != (theirs.kind, theirs.op, len(theirs.inputs)):
        return f"it has {theirs.op}"
    if takes(mine):
        return "what is kept is in another order"
    for a, b in zip(mine.inputs, theirs.inputs, strict=True):
        if not _same_input(a, b, twin, names):
            return _other_input(a, b)
    for a, b in zip(mine.outputs, theirs.outputs, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"it makes {list(b.shape or ())} instead of {list(a.shape or ())}"
    for key in theirs.attrs:
        if key != free and not _same(mine.attrs.get(key), theirs.attrs.get(key)):
            return f"'{key}' is {theirs.attrs.get(key)} instead of {mine.attrs.get(key)}"
    if mine.kind in _BY_CALL and not _same_call(mine.source, theirs.source):
        return "it is called with other arguments"
    return ""


def _other_input(a: Value | None, b: Value | None) -> str:
    if a is not None and b is not None and a.name == b.name and b.weight is not None:
        return f"'{b.name}' has other values: it is computed from a size that changed"
    return f"it reads {b.name if b is not None else 'nothing'} instead of {a.name if a is not None else 'nothing'}"


def _same_input(a: Value | None, b: Value | None, twin: Mapping[Value, Value], names: Mapping[str, str]) -> bool:
    if a is None or b is None:
        return a is b
    if a.weight is None or b.weight is None:
        return twin.get(a) is b
    if a.shape != b.shape or a.weight.dtype != b.weight.dtype or a.weight.trainable != b.weight.trainable:
        return False
    if a.weight.trainable or a.weight.lazy:
        return names.get(a.name, a.name) == b.name
    return _same(a.weight.array(), b.weight.array())


def _same_call(a: Any, b: Any) -> bool:
    if not isinstance(a, Source) or not isinstance(b, Source):
        return False
    return a.target is b.target and _same(a.args, b.args) and _same(a.kwargs, b.kwargs)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), np.asarray(b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return bool(a == b)
