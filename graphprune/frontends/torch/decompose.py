"""Composite operators without a lowering are replaced, in the exported graph, by the operators they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from .registry import lowering_of
from .replacements import REPLACEMENTS

aten = torch.ops.aten


def decompose(module: fx.GraphModule) -> None:
    """Take composites apart in place, a bounded number of times since they nest."""
    for _ in range(4):
        unwrapped = [_unwrap(module, n) for n in list(module.graph.nodes) if _body_at(n)]
        todo = [n for n in module.graph.nodes if n.op == "call_function" and _replacement(n) is not None]
        if not todo and not any(unwrapped):
            return
        for node in todo:
            _inline(module.graph, node)


def _replacement(node: fx.Node) -> Callable[..., Any] | None:
    target = node.target
    if not isinstance(target, OpOverload):
        return None
    if target._opname in REPLACEMENTS and target.namespace == "aten":
        return REPLACEMENTS[target._opname]
    if target._schema.is_mutable:
        return None
    if lowering_of(target._opname) is None and target._can_decompose():
        return target.decompose
    return None


def _inline(graph: fx.Graph, node: fx.Node) -> None:
    function = _replacement(node)
    assert function is not None
    inner = _trace(function, node)
    if inner is None:
        return
    operands = [n for n in _flat((node.args, node.kwargs)) if isinstance(n, fx.Node)]
    _splice(node, inner, operands)


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
        return function(*args, **kwargs)

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
