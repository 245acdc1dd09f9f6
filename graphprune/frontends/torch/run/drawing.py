"""Random operators under control: what they would draw by chance is made from uniform numbers that a script gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.errors import UnsupportedError
from graphprune.ir.graph import Graph

from ...chance import Script
from ..lower.random import active, draws
from ..lower.registry import schema_of

#: The node of a graph that is being run, and how many times it has drawn.
_NODE: ContextVar[list[Any] | None] = ContextVar("node", default=None)


@contextmanager
def inside(node: str) -> Iterator[None]:
    """What is drawn while this lasts, a node of a graph draws."""
    before = _NODE.set([node, 0])
    try:
        yield
    finally:
        _NODE.reset(before)


def following(script: Script | None) -> Any:
    """A context in which random operators follow a script; that of their own where there is none."""
    if script is None:
        return nullcontext()
    script.begin()
    return _Drawing(script)


class _Drawing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls each random operator, and puts what the script makes of it in the place of what it gave."""

    supports_higher_order_operators = True

    def __init__(self, script: Script) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._script = script

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload) or not draws(func) or not active(func, args, kwargs):
            return func(*args, **kwargs)
        name = func._opname.rstrip("_")
        make = _MAKERS.get(name)
        if make is None or "out" in kwargs:
            raise UnsupportedError(f"{_place()}{func} draws random numbers in a way that cannot be repeated")
        given = _Given(func, args, kwargs, self._script)
        if name not in _MAKES_ALL:
            given.result = func(*args, **kwargs)
            given.result.copy_(make(given))
            return given.result
        made = make(given)
        return args[0].copy_(made) if func._opname.endswith("_") else made


def _place() -> str:
    node = _NODE.get()
    return "" if node is None else f"node '{node[0]}': "


class _Given:
    """A call: its arguments by name, and numbers for it."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], script: Script) -> None:
        schema = schema_of(func)
        self._named = {**dict(zip(schema.names, schema.defaults, strict=True)), **kwargs}
        self._named.update(zip(schema.names, args, strict=False))
        name = func._opname.rstrip("_")
        self.noise_too, self._script = name.endswith("_functional"), script
        self._op = _SAME.get(name, name)
        self.result: Any = None

    def __getitem__(self, name: str) -> Any:
        return self._named[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, or the default where this overload has none of that name."""
        found = self._named.get(name)
        return default if found is None else found

    def numbers(self, shape: Sequence[int] | None = None, like: Tensor | None = None) -> Tensor:
        """Numbers between 0 and 1, as many as the result has, or of this shape."""
        like = self.result if like is None else like
        node = _NODE.get()
        key = None if node is None else (str(node[0]), int(node[1]))
        if node is not None:
            node[1] += 1
        wanted = tuple(like.shape if shape is None else shape)
        return torch.from_numpy(np.array(self._script.draw(self._op, wanted, key))).to(like.device)


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def _uniform(given: _Given) -> Tensor:
    low, high = given.get("from", 0.0), given.get("to", 1.0)
    return low + (high - low) * given.numbers()


def _normal(given: _Given) -> Tensor:
    return _wide(given.get("mean", 0.0)) + _wide(given.get("std", 1.0)) * torch.special.ndtri(given.numbers())


def _bernoulli(given: _Given) -> Tensor:
    chance = given.get("p", given.get("self"))
    return given.numbers() < _wide(chance)


def _geometric(given: _Given) -> Tensor:
    chance = torch.tensor(given["p"], dtype=torch.float64)
    return (torch.log(given.numbers()) / torch.log1p(-chance)).ceil().clamp(min=1)


def _integers(given: _Given) -> Tensor:
    low, high = given.get("low", 0), given["high"]
    return (low + (high - low) * given.numbers()).floor()


def _random(given: _Given) -> Tensor:
    dtype = given["self"].dtype
    most = torch.iinfo(dtype).max if not dtype.is_floating_point else 1 / torch.finfo(dtype).eps
    low, high = given.get("from", 0), given.get("to", most)
    return (low + (high - low) * given.numbers()).floor()


def _through_scipy(name: str, *operands: str) -> Callable[[_Given], Tensor]:
    """The inverse of a distribution function; its parameters come before the numbers where it is one of `special`."""

    def make(given: _Given) -> Tensor:
        from scipy import special, stats

        numbers = given.numbers()
        parameters = [given[operand].double().cpu().numpy() for operand in operands]
        if name == "gamma":
            found = special.gammaincinv(*parameters, numbers.cpu().numpy())
        else:
            found = getattr(stats, name).ppf(numbers.cpu().numpy(), *parameters)
        return torch.as_tensor(found, device=numbers.device)

    return make


def _dirichlet(given: _Given) -> Tensor:
    parts = _through_scipy("gamma", "self")(given)
    return parts / parts.sum(-1, keepdim=True)


def _multinomial(given: _Given) -> Tensor:
    """The largest of the logarithms with Gumbel noise: each as likely as its weight says."""
    weights, count = given["self"].double(), given["num_samples"]
    if not given["replacement"]:
        noise = given.numbers(weights.shape)
        return (weights.log() - (-noise.log()).log()).topk(count, -1).indices
    noise = given.numbers((*weights.shape[:-1], count, weights.shape[-1]))
    return (weights.log().unsqueeze(-2) - (-noise.log()).log()).argmax(-1)


def _dropout(given: _Given) -> tuple[Tensor, Tensor]:
    """`p` is the share that goes; `_fused_dropout` is given the share that stays."""
    x, share = given.get("input", given.get("self")), float(given["p"])
    gone = 1 - share if given.get("input") is None else share
    mask = given.numbers(like=x) >= gone
    scaled = x * (mask / (1 - gone)).to(x.dtype) if gone < 1 else torch.zeros_like(x)
    return scaled, mask


def _rrelu(given: _Given) -> Any:
    x = given["self"]
    slope = given["lower"] + (given["upper"] - given["lower"]) * given.numbers(like=x)
    slope = torch.where(x > 0, torch.ones_like(slope), slope).to(x.dtype)
    if given.noise_too:
        return x * slope, slope
    given["noise"].copy_(slope)
    return x * slope


#: What each operator gives, by its name without the underscore of writing in place.
_MAKERS: dict[str, Callable[[_Given], Any]] = {
    **dict.fromkeys(("rand", "rand_like", "uniform"), _uniform),
    **dict.fromkeys(("randn", "randn_like", "normal", "normal_functional"), _normal),
    **dict.fromkeys(("randint", "randint_like"), _integers),
    "random": _random,
    "bernoulli": _bernoulli,
    "exponential": lambda given: -torch.log(given.numbers()) / given["lambd"],
    "log_normal": lambda given: _normal(given).exp(),
    "cauchy": lambda given: given["median"] + given["sigma"] * torch.tan(torch.pi * (given.numbers() - 0.5)),
    "geometric": _geometric,
    "poisson": _through_scipy("poisson", "self"),
    "binomial": _through_scipy("binom", "count", "prob"),
    "_standard_gamma": _through_scipy("gamma", "self"),
    "_sample_dirichlet": _dirichlet,
    "multinomial": _multinomial,
    "randperm": lambda given: given.numbers().argsort(),
    **dict.fromkeys(("native_dropout", "_fused_dropout"), _dropout),
    **dict.fromkeys(("rrelu_with_noise", "rrelu_with_noise_functional"), _rrelu),
}

#: Names of what is the same, as functions and in place, in a graph and in the code that it was captured from.
_SAME = {
    "rand_like": "rand", "uniform": "rand", "randn_like": "randn", "normal": "randn", "normal_functional": "randn",
    "randint_like": "randint", "rrelu_with_noise_functional": "rrelu_with_noise",
}  # fmt: skip

#: Those that also read what they would overwrite, or give more than one result.
_MAKES_ALL = frozenset({"native_dropout", "_fused_dropout", "rrelu_with_noise", "rrelu_with_noise_functional"})


def is_random(graph: Graph) -> bool:
    """Whether some node of a captured graph draws random numbers."""
    return any(node.attrs.get("random") for node in graph.all_nodes)
