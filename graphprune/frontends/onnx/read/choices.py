"""Small inputs that only choose branches (a sampling rate, a flag): values of them at which each branch runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

from graphprune.ir.graph import Case, Weight

from ..protos import attributes, domain, element_type, static_shape, subgraphs
from ..tensors import numpy_dtype
from .branches import World
from .fold import Small, evaluate

#: Combinations of values that are looked at, and different outcomes that are kept.
_LOOKED, _KEPT = 512, 8
#: Nodes between an input and a condition.
_DEEP = 64


def cases(model: ModelProto, weights: Mapping[str, Weight], worlds: Sequence[World]) -> tuple[Case, ...]:
    """A case for each way through the branches that small inputs choose; none where they choose nothing."""
    choice = _Choice(model, weights)
    if not choice.inputs:
        return ()
    found: dict[tuple[bool, ...], Case] = {}
    for values in islice(choice.combinations(), _LOOKED):
        outcome = choice.outcome(values)
        if outcome is not None and outcome not in found and len(found) < _KEPT:
            found[outcome] = Case(values, choice.shapes(outcome, worlds))
    return tuple(found.values()) if len(found) > 1 or any(c.shapes for c in found.values()) else ()


class _Choice:
    def __init__(self, model: ModelProto, weights: Mapping[str, Weight]) -> None:
        self._model, self._weights = model, weights
        self._makers = {name: node for node in _nodes(model.graph) for name in node.output if name}
        self._small = {i.name: i for i in model.graph.input if i.name not in weights and _is_small(i.type)}
        self._ways: list[tuple[NodeProto, list[NodeProto]]] = []
        self.inputs: dict[str, list[int]] = {}
        for node in _nodes(model.graph):
            if node.op_type == "If" and not domain(node):
                self._note(node)

    def _note(self, node: NodeProto) -> None:
        """Keep an If whose condition is computed from small inputs and constants alone."""
        cone, inputs, numbers = self._cone(node.input[0])
        if not inputs or cone is None:
            return
        self._ways.append((node, cone))
        for name in inputs:
            self.inputs.setdefault(name, []).extend(numbers)

    def _cone(self, name: str) -> tuple[list[NodeProto] | None, list[str], list[int]]:
        """The nodes that make a condition, the inputs that it depends on, and the numbers among its constants."""
        nodes: dict[int, NodeProto] = {}
        inputs, numbers, queue, seen = [], [], [name], {name}
        while queue:
            value = queue.pop()
            if value in self._weights:
                numbers += _numbers(self._weights[value])
            elif value in self._small:
                inputs.append(value)
            elif value not in self._makers or len(nodes) >= _DEEP or any(subgraphs(self._makers[value])):
                return None, [], []
            else:
                node = self._makers[value]
                nodes[id(node)] = node
                queue += [n for n in node.input if n and n not in seen]
                seen.update(node.input)
        return list(nodes.values())[::-1], inputs, numbers

    def combinations(self) -> Iterator[dict[str, np.ndarray]]:
        """Values of the inputs, the likeliest to matter first."""
        lists = [[self._value(name, n) for n in _around(numbers)] for name, numbers in self.inputs.items()]
        for values in product(*lists):
            yield dict(zip(self.inputs, values, strict=True))

    def _value(self, name: str, number: int) -> np.ndarray:
        kind = self._small[name].type
        return np.full(static_shape(kind) or (), number).astype(numpy_dtype(element_type(kind)))

    def outcome(self, values: Mapping[str, np.ndarray]) -> tuple[bool, ...] | None:
        """The branch that each If takes; None where that cannot be told."""
        found = []
        for node, cone in self._ways:
            known = {name: Small.fixed(value) for name, value in values.items()}
            for step in _ordered(cone):
                inputs = [self._known(name, known) if name else None for name in step.input]
                results = evaluate(step, inputs, self._model.opset_import)
                if results is None:
                    return None
                known.update(zip([n for n in step.output if n], results, strict=True))
            condition = self._known(node.input[0], known)
            if condition is None or condition.value.size != 1:
                return None
            found.append(bool(condition.value.reshape(())[()]))
        return tuple(found)

    def _known(self, name: str, known: Mapping[str, Small]) -> Small | None:
        if name in known:
            return known[name]
        weight = self._weights.get(name)
        return None if weight is None else Small.fixed(weight.array())

    def shapes(self, outcome: tuple[bool, ...], worlds: Sequence[World]) -> dict[str, tuple[int, ...]]:
        """The input shapes at which the branches that are taken run."""
        own = {world.body: world.shapes for world in worlds}
        found: dict[str, tuple[int, ...]] = {}
        for (node, _), taken in zip(self._ways, outcome, strict=True):
            branch = attributes(node)["then_branch" if taken else "else_branch"]
            found.update(own.get(branch.output[0].name, {}))
        return found


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _is_small(kind: object) -> bool:
    shape = static_shape(kind)  # type: ignore[arg-type]
    return shape is not None and int(np.prod(shape)) == 1


def _numbers(weight: Weight) -> list[int]:
    if weight.size > _DEEP or weight.dtype.kind not in "iufb":
        return []
    return [int(n) for n in weight.array().reshape(-1) if np.isfinite(n) and abs(float(n)) < 1 << 31]


def _around(numbers: Iterable[int]) -> list[int]:
    """Numbers on every side of some, those first that a person would choose."""
    own = list(dict.fromkeys(numbers))
    near = [n + d for n in own for d in (1, -1)]
    return list(dict.fromkeys([*own, *(n // 2 for n in own), *(2 * n for n in own), *near, 0, 1]))


def _ordered(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Nodes after what they read."""
    made = {name for node in nodes for name in node.output}
    rest, found = list(nodes), list[NodeProto]()
    known = set[str]()
    while rest:
        ready = [node for node in rest if all(n not in made or n in known for n in node.input)]
        if not ready:
            break
        found += ready
        known.update(name for node in ready for name in node.output)
        rest = [node for node in rest if node not in ready]
    return found
