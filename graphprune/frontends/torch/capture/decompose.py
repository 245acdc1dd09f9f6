"""Composite operators without a lowering are replaced, in the exported graph, by the operators they are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ..lower.aliasing import twin
from ..lower.registry import lowering_of
from ..run.observers import follows_range, quantiser_at_rest
from .replacements import REPLACEMENTS, cat_without_empty, in_place

aten = torch.ops.aten
_EXPANDING = (aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
_SAME_ELEMENTS = (aten.to.device, aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default, aten.clone.default)
#: Parts that torch knows of operators which are not composites. They are taken where all of them have rules.
_TABLED = frozenset(decomposition_table.values())


def decompose(module: fx.GraphModule) -> None:
    """Take composites apart in place, a bounded number of times since they nest."""
    for node in module.graph.find_nodes(op="call_function", target=aten.masked_scatter.default):
        node.update_arg(1, _unexpanded(node.args[1]))
    for _ in range(6):
        unwrapped = [_unwrap(module, n) for n in list(module.graph.nodes) if _body_at(n)]
        calls = [n for n in module.graph.nodes if n.op == "call_function"]
        todo = [(n, function) for n in calls if (function := _replacement(module, n)) is not None]
        if not todo and not any(unwrapped):
            return
        for node, function in todo:
            _inline(node, function)


def _replacement(module: fx.GraphModule, node: fx.Node) -> Callable[..., Any] | None:
    target = node.target
    if follows_range(node):
        made: Callable[..., Any] = quantiser_at_rest(module, node)
        return made
    if not isinstance(target, OpOverload):
        return None
    if target is aten.cat.default:
        ranks = {n.meta["val"].ndim for n in node.all_input_nodes}
        return cat_without_empty if len(ranks) > 1 else None
    if target._opname in REPLACEMENTS and target.namespace == "aten":
        return REPLACEMENTS[target._opname]
    if target._schema.is_mutable:
        function = twin(target)
        return in_place(function) if function is not None and _parts(function) is not None else None
    return _parts(target)


def _parts(target: OpOverload) -> Callable[..., Any] | None:
    """What an operator without a lowering is made of: a composite says so itself, of others torch has a table."""
    if lowering_of(target._opname) is not None or torch.Tag.nondeterministic_seeded in target.tags:
        return None
    if target._can_decompose():
        return target.decompose
    return REPLACEMENTS.get(target._opname) or decomposition_table.get(target)


def _inline(node: fx.Node, function: Callable[..., Any]) -> None:
    inner = _trace(function, node)
    if inner is None or (function in _TABLED and not _all_known(inner)):
        return
    operands = [n for n in _flat((node.args, node.kwargs)) if isinstance(n, fx.Node)]
    _splice(node, inner, operands)


def _unexpanded(mask: Any) -> Any:
    """A mask before it was broadcast, which `masked_scatter` does itself: so its rows are seen to be rows."""
    node = mask
    while isinstance(node, fx.Node) and node.target in _SAME_ELEMENTS:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.target not in _EXPANDING:
        return mask
    source: Any = node.args[0]
    return source if source.meta["val"].dtype == torch.bool else mask


def _all_known(inner: fx.Graph) -> bool:
    """Whether each operator has a lowering, or has parts itself."""
    calls = [n.target for n in inner.nodes if n.op == "call_function" and n.target is not operator.getitem]
    return all(isinstance(t, OpOverload) and (lowering_of(t._opname) or _parts(t)) is not None for t in calls)


def _body_at(node: fx.Node) -> int:
    """Which argument is the block that a call wraps: under `no_grad`, or with autocast on or off; 0 if none."""
    if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
        return 1
    if node.target is torch.ops.higher_order.wrap_with_autocast:
        return 4
    return 0


def _unwrap(module: fx.GraphModule, node: fx.Node) -> bool:
    """A wrapped block becomes part of the graph around it; False where it must stay a block."""
    at = _body_at(node)
    body, *operands = node.args[at:]
    assert isinstance(body, fx.Node)
    inner = module.get_submodule(str(body.target))
    assert isinstance(inner, fx.GraphModule)
    graph: fx.Graph | None = inner.graph
    if at == 4 and node.args[2]:
        graph = _with_casts(inner, node.args[:2], operands)
    if graph is not None:
        _splice(node, graph, operands)
    return graph is not None


def _with_casts(inner: fx.GraphModule, how: Sequence[Any], operands: Sequence[Any]) -> fx.Graph | None:
    """A block under autocast (of these device and type) with the casts written out; None where it cannot be traced."""

    def run(*tensors: torch.Tensor) -> Any:
        with torch.autocast(how[0], how[1], cache_enabled=False):
            return inner(*tensors)

    try:
        return make_fx(run)(*(n.meta["val"] for n in operands)).graph
    except Exception:
        return None


def _splice(node: fx.Node, inner: fx.Graph, operands: list[Any]) -> None:
    """Put a graph in the place of a call on these operands."""
    env = dict(zip((n for n in inner.nodes if n.op == "placeholder"), operands, strict=True))
    with node.graph.inserting_before(node):
        for call in inner.nodes:
            if call.op == "call_function":
                env[call] = node.graph.node_copy(call, lambda n: env[n])
                env[call].meta.setdefault("nn_module_stack", node.meta.get("nn_module_stack", {}))
            elif call.op == "output":
                _replace(node, call.args[0], env)


def _replace(node: fx.Node, result: Any, env: dict[fx.Node, fx.Node]) -> None:
    if isinstance(result, (tuple, list)):
        for user in list(node.users):
            user.replace_all_uses_with(env[result[user.args[1]]])  # type: ignore[index]
            node.graph.erase_node(user)
    else:
        node.replace_all_uses_with(env[result])
    node.graph.erase_node(node)


def _trace(function: Callable[..., Any], node: fx.Node) -> fx.Graph | None:
    """The operators that a composite runs on these (fake) arguments; None where it cannot be traced."""
    leaves = _flat((node.args, node.kwargs))
    fakes = [leaf.meta["val"] for leaf in leaves if isinstance(leaf, fx.Node)]
    if not all(isinstance(f, FakeTensor) for f in fakes):
        return None

    def run(*tensors: torch.Tensor) -> Any:
        feed = iter(tensors)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: next(feed))
        found = function(*args, **kwargs)
        return tuple(found) if isinstance(found, tuple) else found  # torch would trace the making of a named tuple

    try:
        made = make_fx(run)(*fakes).graph
    except Exception:
        return None
    results = pytree.tree_leaves(made.output_node().args[0])
    return made if all(isinstance(result, fx.Node) for result in results) else None  # a size, say


def _flat(value: Any) -> list[Any]:
    leaves: list[Any] = []
    fx.node.map_arg(value, leaves.append)
    return leaves
