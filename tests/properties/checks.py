"""What must hold of a case: the proof, and properties that do not rest on the coupling's labels of activations.

- The plan applied to a fresh copy gives the very same model; keeping everything gives the very same outputs.
- An ONNX result passes the checker with full shape inference, and onnxruntime computes the same with and without its
  optimizations, and at another batch where that is open.
- Zeroing the weights of what was removed from exact groups in the *plain* original computes the same as removing them.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper

from graphprune import frontends
from graphprune.calibration.random_inputs import random_inputs
from graphprune.calibration.running import runner
from graphprune.coupling import Coupling, couple
from graphprune.coupling.couple import Frozen
from graphprune.coupling.slicing import Survivors
from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import inner
from graphprune.ops.base import Array
from graphprune.ops.reduce import SUMS
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import allocation, targets
from graphprune.pruning.criteria import magnitude
from graphprune.pruning.plan import Plan
from graphprune.verification import proof
from graphprune.verification.comparing import FAILED, Limits, compare
from graphprune.verification.leaves import leaves
from graphprune.verification.noise import shaking
from graphprune.verification.sides import changed
from tests.helpers import graph_of

from .cases import Case

#: In units of how much an output varies, as in the proof.
LIMIT = 1e-3
#: Elementwise functions that make something of nothing.
_FROM_ZERO = frozenset({"sigmoid", "exp", "cos", "softplus", "logical_not", "eq", "equal", "reciprocal"})


def check(case: Case) -> dict[str, Any]:
    """Prune a case and assert all that must hold; facts about it for the table."""
    module = case.program()
    model = module if case.backend == "torch" else module.onnx(case.opset, case.dynamic, case.computed)
    graph = _captured(case, model)
    coupling = couple(graph, grouped=case.grouped)
    strange = any(name == "strange" for name, _, _ in case.steps)
    assert strange or not coupling.unknown(), coupling.unknown()
    facts: dict[str, Any] = {"kinds": Counter(node.kind for node in graph.flat_nodes), "groups": len(coupling)}
    facts["frozen"] = Counter(_reason(row) for row in coupling.frozen_axes())
    plan, why = _plan(case, coupling)
    if plan is None:
        return {**facts, "outcome": "nothing prunable", "why": why}
    keep = plan.kept(coupling)
    pruned = remove_channels(coupling, keep)
    pruned.check()
    result = emitted(pruned)
    found = proof.verify(coupling, keep, result, seed=case.number)
    assert not found.failed, found
    assert [v.shape for v in pruned.outputs] == [v.shape for v in graph.outputs]
    facts["kept"] = pruned.parameter_count() / max(1, graph.parameter_count())
    assert facts["kept"] <= 1, "parameters were added"
    facts["outcome"] = "kept all" if keep.all() else "pruned"
    facts["little"] = found.undecided
    facts["also"] = _others(case, model, coupling, plan, keep, result)
    return facts


def _reason(row: Frozen) -> str:
    """Why an axis stays, without names: tables count these."""
    if not row.node and "output" not in row.reason:
        return f"unexplained: {row.reason}"
    return re.sub(r"'.*'", "...", row.reason)


def _others(case: Case, model: Any, coupling: Coupling, plan: Plan, keep: Array, result: Any) -> list[str]:
    """The further properties, each in a part of the cases; their names."""
    turn = case.number // 7 % 6
    if turn < 3:
        return ["zeroed weights"] if _matches_zeroed(model, coupling, keep) else []
    if turn == 3:
        _assert_same_model(result, _again(case, model, plan))
        return ["fresh copy"]
    if turn == 4:
        _assert_all_kept_is_the_same(coupling, model)
        return ["all kept"]
    if case.backend == "onnx":
        _assert_optimizations_do_not_matter(coupling.graph, result, case)
        return ["unoptimized"]
    return []


def emitted(graph: Graph) -> Any:
    """The foreign model; an ONNX one passes the checker with full inference."""
    made = frontends.emit(graph)
    model = getattr(made, "module", made)
    if graph.frontend == "onnx":
        onnx.checker.check_model(model, full_check=True)
    return model


def _captured(case: Case, model: Any) -> Graph:
    return graph_of(model) if case.backend == "onnx" else graph_of(model, model.example)


def _plan(case: Case, coupling: Coupling) -> tuple[Plan | None, str]:
    """What the case asks for; where that cannot be (a budget out of reach, no norm to score by), half of each group."""
    asked = (
        case.criterion,
        case.target,
        allocation.Options(case.include, case.exclude, align=case.align, floor=case.floor, roles=("all",)),
    )
    why = ""
    for criterion, target, options in (asked, ("random", "channels", allocation.Options(align=1, roles=("all",)))):
        try:
            scores = magnitude.score(coupling, criterion, seed=case.number)
            return allocation.make_plan(coupling, scores, targets.Target(target, case.ratio), options, criterion), ""
        except InputError as error:
            why = str(error)
    return None, why


def _again(case: Case, model: Any, plan: Plan) -> Any:
    """The plan, written and read, applied to the model captured once more."""
    coupling = couple(_captured(case, model), grouped=case.grouped)
    read = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    return emitted(remove_channels(coupling, read.kept(coupling)))


def _assert_same_model(one: Any, other: Any) -> None:
    if isinstance(one, onnx.ModelProto):
        assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
        return
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def _runs(graph: Graph, model: Any, seeds: Sequence[int]) -> list[list[Array]]:
    run = runner(graph, model)
    return [list(run(random_inputs(graph, seed))) for seed in seeds]


def _assert_all_kept_is_the_same(coupling: Coupling, model: Any) -> None:
    whole = emitted(remove_channels(coupling, np.ones(coupling.count, bool)))
    pairs = zip(_runs(coupling.graph, model, [0]), _runs(coupling.graph, whole, [0]), strict=True)
    for wants, haves in pairs:
        for want, have in zip(wants, haves, strict=True):
            if any(node.bodies for node in coupling.graph.nodes):  # constants come out of them: other kernels run
                np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(have, want)


def _assert_close(graph: Graph, expected: list[list[Array]], found: list[list[Array]], model: Any, what: str) -> None:
    """Close in the proof's units; an ill-conditioned model is held to what rounding its inputs does to it."""
    wants, haves, limits = [*map(leaves, expected)], [*map(leaves, found)], Limits(LIMIT, 2e-6)
    bad = [f for f in compare(wants, haves, limits) if f.verdict == FAILED]
    if not bad:
        return
    run = runner(graph, model)
    feeds = [changed(graph, random_inputs(graph, seed), shaking(graph, seed)) for seed in range(len(expected))]
    noise = [[leaves(list(run(feed))) for feed in feeds]]
    bad = [f for f in compare(wants, haves, limits, noise) if f.verdict == FAILED]
    assert not bad, f"{what}: {bad}"


def _assert_optimizations_do_not_matter(graph: Graph, model: onnx.ModelProto, case: Case) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = [random_inputs(graph, seed) for seed in range(2)]
    _assert_close(graph, _runs(graph, model, [0, 1]), [session.run(None, f) for f in feeds], model, "unoptimized")
    if case.dynamic and not any(node.kind == "if" for node in graph.flat_nodes):  # which goes by the whole batch
        joined = {name: np.concatenate([feeds[0][name], feeds[1][name][:1]]) for name in feeds[0]}
        apart = [session.run(None, feeds[0]), session.run(None, {n: a[:1] for n, a in feeds[1].items()})]
        together = [np.concatenate(pair) for pair in zip(*apart, strict=True)]
        _assert_close(graph, [together], [session.run(None, joined)], model, "another batch")


def _matches_zeroed(model: Any, coupling: Coupling, keep: Array) -> bool:
    """Prune exact groups only and compare with the original, its weights zero there; False where that says nothing."""
    keep = keep.copy()
    for group in coupling.groups:
        if not group.exact:
            keep[group.components] = True
    if keep.all() or _makes_something_of_nothing(coupling):
        return False
    arrays = _zeroed(coupling, keep)
    if arrays is None:
        return False
    original = _with_weights(model, arrays)
    pruned = emitted(remove_channels(coupling, keep))
    expected, found = (_runs(coupling.graph, m, [0, 1]) for m in (original, pruned))
    _assert_close(coupling.graph, expected, found, original, "zeroed weights")
    return True


def _makes_something_of_nothing(coupling: Coupling) -> bool:
    """Whether zero channels may turn into others and then leave other than through a weight that is zero as well."""
    nodes = [step for node in coupling.graph.flat_nodes for step in inner(node)]
    something = any(n.kind == "elementwise" and _from_zero(n, coupling) for n in nodes)
    return something and any(_leaves_without_weight(n) for n in nodes)


def _from_zero(node: Node, coupling: Coupling) -> bool:
    if node.attrs["fn"] in _FROM_ZERO:
        return True
    if node.attrs["fn"] not in ("add", "sub", "pow", "clip", "where", "div", "max", "min"):
        return False
    out = node.outputs[0]
    labeled = {axis for block in coupling.blocks.get(out, ()) for axis in block.axes}
    given = [v for v in node.inputs if v is not None]
    return bool(node.attrs.get("scalars")) or any(_spread(v, out, labeled) for v in given)


def _spread(value: Value, out: Value, axes: set[int]) -> bool:
    """Whether a value is the same along some of these axes of the result: it does not go with their indices."""
    own = (1,) * (out.rank - value.rank) + value.sizes
    return prod(own) == 1 or any(own[axis] == 1 < out.sizes[axis] for axis in axes)


def _leaves_without_weight(node: Node) -> bool:
    if node.kind == "reduce":
        return node.attrs["fn"] in SUMS
    if node.kind == "cumsum":
        return True
    made = [v for v in node.inputs[:2] if v is not None and v.weight is None]
    return node.kind == "attention" or (node.kind in ("matmul", "einsum") and len(made) > 1)


def _zeroed(coupling: Coupling, keep: Array) -> dict[str, Array] | None:
    """Every weight that loses something, zero there; None where uses of one weight lose different things."""
    survivors, made, keys = Survivors(coupling, keep), {}, {}
    for use in coupling.uses:
        key = survivors.key(use)
        if keys.setdefault(use.value, key) != key:
            return None
        if not key:
            continue
        assert use.value.weight is not None
        if not use.value.weight.plain:  # integers, stored under other names
            return None
        array = made.setdefault(use.value.name, use.value.weight.array().copy())
        for block in use.blocks:
            gone = ~survivors.mask(block.labels)
            array[tuple(slice(None) if a != block.axes[0] else gone for a in range(array.ndim))] = 0
        if use.columns is not None:
            groups = len(use.columns.labels)
            rows = np.moveaxis(array, (use.columns.by, use.columns.axis), (0, 1))
            parts = rows.reshape(groups, -1, *rows.shape[1:])
            for part, labels in zip(parts, use.columns.labels, strict=True):
                part[:, ~survivors.mask(labels)] = 0
            made[use.value.name] = np.moveaxis(parts.reshape(rows.shape), (0, 1), (use.columns.by, use.columns.axis))
    return made


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Of a graph and of the bodies in it."""
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from _initializers(attribute.g)


def _with_weights(model: Any, arrays: dict[str, Array]) -> Any:
    changed = copy.deepcopy(model)
    if isinstance(model, onnx.ModelProto):
        for tensor in _initializers(changed.graph):
            if tensor.name in arrays:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))
        return changed
    state = changed.state_dict()
    with torch.no_grad():
        for name in arrays.keys() & state.keys():
            state[name].copy_(torch.from_numpy(np.ascontiguousarray(arrays[name])))
    return changed
