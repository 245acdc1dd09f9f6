"""Composite operators without a lowering are replaced, in the exported graph, by the operators they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from .registry import lowering_of

aten = torch.ops.aten


def _channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, *rest = x.shape
    return x.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    others = [axis for axis in range(v.ndim) if axis != dim]
    norm = torch.linalg.vector_norm(v, 2, others, keepdim=True)
    return v * (g / norm), norm


def _select_scatter(x: torch.Tensor, src: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    start = index % x.shape[dim]
    return torch.slice_scatter(x, src.unsqueeze(dim), dim, start, start + 1)


# Replacements for operators that ATen itself does not take apart.
_OWN: dict[str, Callable[..., Any]] = {
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
    "_weight_norm_interface": _weight_norm,
    "select_scatter": _select_scatter,
}


def decompose(module: fx.GraphModule) -> None:
    """Take composites apart in place, a bounded number of times since they nest."""
    for _ in range(4):
        for node in [n for n in module.graph.nodes if _body_at(n)]:
            _unwrap(module, node)
        todo = [n for n in module.graph.nodes if n.op == "call_function" and _replacement(n) is not None]
        if not todo:
            return
        for node in todo:
            _inline(module.graph, node)


def _replacement(node: fx.Node) -> Callable[..., Any] | None:
    target = node.target
    if not isinstance(target, OpOverload) or target._schema.is_mutable:
        return None
    if target._opname in _OWN:
        return _OWN[target._opname]
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
    """Which argument is the block that a call wraps: under `no_grad`, or with autocast switched off; 0 if none."""
    if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
        return 1
    if node.target is torch.ops.higher_order.wrap_with_autocast and not node.args[2]:
        return 4
    return 0


def _unwrap(module: fx.GraphModule, node: fx.Node) -> None:
    """A wrapped block becomes part of the graph around it."""
    body, *operands = node.args[_body_at(node) :]
    assert isinstance(body, fx.Node)
    inner = module.get_submodule(str(body.target))
    assert isinstance(inner, fx.GraphModule)
    _splice(node, inner.graph, operands)


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
