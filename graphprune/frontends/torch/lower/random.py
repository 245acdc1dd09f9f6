"""Lowerings of operators that draw random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..origin import Submodule
from .registry import Call, Spec, lowers, schema_of

#: Operators that draw a number for each element of their tensors, which say how many, or how they are distributed.
_ELEMENTWISE = """
    bernoulli binomial cauchy exponential geometric log_normal normal normal_functional poisson rand_like randint_like
    randn_like random uniform _standard_gamma
""".split()

_DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")

#: Operators that draw, though torch's tag does not say so.
_UNTAGGED = frozenset("binomial normal_functional random _sample_dirichlet".split())

#: Composites that may draw, though torch's tag stands on their parts only.
_COMPOSITE = frozenset("rrelu scaled_dot_product_attention feature_dropout feature_alpha_dropout".split())


def draws(target: Any) -> bool:
    """Whether an operator gives other numbers each time it is called."""
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags or target._opname.rstrip("_") in _UNTAGGED


def active(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call draws: at inference, or with nothing to drop, some do not."""
    schema = schema_of(func)
    named = {**dict(zip(schema.names, schema.defaults, strict=True)), **kwargs}
    named.update(zip(schema.names, args, strict=False))
    for switch in ("train", "training"):
        if switch in named and named[switch] is False:
            return False
    shares = [named[name] for name in ("dropout_p", "dropout") if name in named]
    return not shares or any(shares)


def may_draw(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call draws random numbers, in itself or in a block that it wraps."""
    if isinstance(target, torch._ops.OpOverload):
        return (draws(target) or target._opname.rstrip("_") in _COMPOSITE) and active(target, tuple(args), kwargs)
    bodies = [arg.module for arg in args if isinstance(arg, Submodule) and isinstance(arg.module, fx.GraphModule)]
    calls = [n for body in bodies for n in body.graph.nodes if n.op == "call_function"]
    return any(may_draw(n.target, n.args, dict(n.kwargs)) for n in calls)


@lowers(*_ELEMENTWISE)
def drawn(call: Call) -> Spec:
    """A number for each element of the operands: it goes where they go. `normal` of two numbers is told a size."""
    if not call.tensors():
        return Spec("noise", (), {"shape": call.out})
    return Spec("elementwise", call.tensors(), {"fn": call.name})


@lowers("rand", "randn", "randint")
def generated(call: Call) -> Spec:
    """As many numbers as the size says."""
    return Spec("noise", (), {"shape": call.out})


@lowers(*_DROPOUT)
def dropout(call: Call) -> Spec:
    """A no-op at inference; elsewhere random numbers for each element of the data."""
    if call.get("train", True):
        return Spec("elementwise", ("input",), {"fn": "random_dropout"})
    return Spec("elementwise", ("input",), {"fn": "dropout"})


@lowers("_sample_dirichlet")
def shares(call: Call) -> Spec:
    """Shares along the last axis."""
    return Spec("axiswise", ("self",), {"axes": [call.rank("self") - 1]})


@lowers("multinomial")
def multinomial(call: Call) -> Spec:
    """Positions along the last axis, picked by chance."""
    attrs = {"axis": call.rank("self") - 1, "distinct": not call["replacement"]}
    return Spec("sample", ("self",), attrs)
