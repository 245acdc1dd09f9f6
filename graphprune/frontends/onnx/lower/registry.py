"""The table of lowerings: ONNX operator -> canonical kind, and what a lowering may ask about its node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from graphprune.errors import GraphPruneError

from ..protos import attributes, domain
from ..quantized import Decode, Layout, affine
from ..read.binding import Shape
from ..read.facts import Fact, dtype_of
from ..tensors import is_float

#: Parameters that say how, by operator: attribute name in old opsets -> input slot in newer ones.
PARAMETERS: dict[str, dict[str, int]] = {
    "Reshape": {"shape": 1},
    "Expand": {"shape": 1},
    "ConstantOfShape": {"input": 0},
    "Squeeze": {"axes": 1},
    "Unsqueeze": {"axes": 1},
    "Slice": {"starts": 1, "ends": 2, "axes": 3, "steps": 4},
    "Split": {"split": 1},
    "Tile": {"repeats": 1},
    "Pad": {"pads": 1, "value": 2, "axes": 3},
    "TopK": {"k": 1},
    "DFT": {"axis": 2},
    "CumSum": {"axis": 1},
    "CumProd": {"axis": 1},
    "OneHot": {"depth": 1},
    "Upsample": {"scales": 1},
    "Resize": {"roi": 1, "scales": 2, "sizes": 3},
    "Dropout": {"ratio": 1, "training_mode": 2},
    "Trilu": {"k": 1},
    "Col2Im": {"image_shape": 1, "block_shape": 2},
    **{
        f"Reduce{fn}": {"axes": 1}
        for fn in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    },
}


#: The slot of an operand that no foreign input stands for: the value that ConstantOfShape fills in.
FILL = -2


@dataclass(frozen=True)
class Lowered:
    """A canonical node: its kind, the foreign input slot of each operand, its attributes.

    `outputs` says how many foreign outputs the kind describes; a node that has more becomes unknown. `encoded` names,
    by its first slot, each constant operand that is stored in several slots.
    """

    kind: str
    slots: tuple[int, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    encoded: Mapping[int, Coding] = field(default_factory=dict)


@dataclass(frozen=True)
class Coding:
    """A constant operand in parts: the slot of each (None: absent), how it lies over the operand, and what all of them
    stand for. Slots in `context` are read for decoding, and belong to another operand.
    """

    shape: Shape
    slots: tuple[int | None, ...]
    layouts: tuple[Layout, ...]
    decode: Decode = affine
    context: frozenset[int] = frozenset()


class View:
    """An ONNX node with what is known about its operands."""

    def __init__(self, proto: NodeProto, facts: Mapping[str, Fact], opset: int) -> None:
        self.proto = proto
        self.op = str(proto.op_type)
        self.opset = opset
        self.attrs = attributes(proto)
        self._facts = facts

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.attrs.get(name, default)

    def has(self, slot: int) -> bool:
        """Whether the input is given."""
        return slot < len(self.proto.input) and bool(self.proto.input[slot])

    @property
    def slots(self) -> tuple[int, ...]:
        """All foreign input slots."""
        return tuple(range(len(self.proto.input)))

    def constant(self, slot: int) -> bool:
        """Whether the input is a constant."""
        fact = self.fact(slot)
        return fact is not None and fact.weight is not None

    def wants(self, output: int) -> bool:
        """Whether the output has a name."""
        return output < len(self.proto.output) and bool(self.proto.output[output])

    @property
    def produced(self) -> int:
        """Number of outputs that have a name."""
        return sum(1 for name in self.proto.output if name)

    def fact(self, slot: int) -> Fact | None:
        """What is known about an input."""
        return self._facts.get(self.proto.input[slot]) if self.has(slot) else None

    def shape(self, slot: int = 0) -> Shape:
        """Sizes of an input; raises `UnlowerableError` if not known."""
        fact = self.fact(slot)
        if fact is None or fact.shape is None:
            raise UnlowerableError
        return fact.shape

    def rank(self, slot: int = 0) -> int:
        """Number of axes of an input."""
        return len(self.shape(slot))

    def out_shape(self, index: int = 0) -> Shape:
        """Sizes of an output; raises `UnlowerableError` if not known."""
        fact = self._facts.get(self.proto.output[index])
        if fact is None or fact.shape is None:
            raise UnlowerableError
        return fact.shape

    def out_float(self) -> bool:
        """Whether the first output holds real numbers."""
        fact = self._facts.get(self.proto.output[0])
        return fact is not None and is_float(dtype_of(fact))

    def axis(self, value: int, rank: int | None = None) -> int:
        """An axis made non-negative."""
        rank = self.rank() if rank is None else rank
        if not -rank <= value < max(rank, 1):
            raise UnlowerableError
        return value % rank if rank else 0

    def param(self, name: str) -> np.ndarray | None:
        """A parameter's value (as bound, where it is computed), from its attribute or its input; None if absent."""
        slot = PARAMETERS.get(self.op, {}).get(name)
        if slot is not None and self.has(slot):
            fact = self.fact(slot)
            if fact is None or fact.small is None:
                raise UnlowerableError
            return fact.small.value
        return np.asarray(self.attrs[name]) if name in self.attrs else None

    def follows(self, name: str) -> list[bool]:
        """Which entries of a parameter are computed from dynamic sizes (empty where none can be)."""
        slot = PARAMETERS.get(self.op, {}).get(name)
        fact = self.fact(slot) if slot is not None else None
        return [] if fact is None or fact.small is None else [bool(f) for f in fact.small.follows.reshape(-1)]

    def ints(self, name: str) -> list[int] | None:
        """A parameter as a list of integers."""
        value = self.param(name)
        return None if value is None else [int(n) for n in value.reshape(-1)]


class UnlowerableError(GraphPruneError):
    """Raised inside a lowering where the node has no canonical form; it becomes `unknown`."""


Lowering = Callable[[View], Lowered | None]
_LOWERINGS: dict[str, Lowering] = {}
_DOMAINS = frozenset({"", "com.microsoft"})


def lowers(*ops: str) -> Callable[[Lowering], Lowering]:
    """Register the decorated function as the lowering of these operators."""

    def register(lowering: Lowering) -> Lowering:
        for op in ops:
            if op in _LOWERINGS:
                raise GraphPruneError(f"the ONNX operator '{op}' has two lowerings")
            _LOWERINGS[op] = lowering
        return lowering

    return register


def lower(view: View) -> Lowered | None:
    """The canonical form of a node; None where it has none."""
    lowering = _LOWERINGS.get(view.op)
    if lowering is None or domain(view.proto) not in _DOMAINS:
        return None
    try:
        lowered = lowering(view)
    except (UnlowerableError, ArithmeticError, LookupError, TypeError, ValueError):
        return None  # also where an attribute is absent or makes no sense
    return None if lowered is not None and view.produced > lowered.outputs else lowered


def is_lowered(proto: NodeProto) -> bool:
    """Whether an operator is in the table."""
    return proto.op_type in _LOWERINGS and domain(proto) in _DOMAINS


def lowered_operators() -> list[str]:
    """All operators in the table."""
    return sorted(_LOWERINGS)
