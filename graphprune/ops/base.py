"""The operator table: one entry per canonical kind says how labels flow, what it costs and how its attributes follow.

A rule never looks at another node. It talks to a `Labeller`, which holds the labels of every value (see
`graphprune.coupling`), and, once a plan is made, to a `Kept`, which knows the indices that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Node, Value

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Block:
    """Labels of one axis, or of several axes jointly.

    `labels` has one dimension per entry of `axes`. A joint block arises where a reshape splits an axis: each *pair* of
    indices keeps the label it had. The order of `axes` is that of the split, outermost first, and survives transposes.
    `origin` names the reshape that made a joint block.
    """

    axes: tuple[int, ...]
    labels: Array
    origin: str = ""

    @property
    def joint(self) -> bool:
        """Whether the block covers several axes."""
        return len(self.axes) > 1


@dataclass(frozen=True, eq=False)
class Columns:
    """Column labels that differ by row group: for rows of group j, `labels[j]` label the indices of `axis`.

    The weight of a grouped convolution: rows (axis `by`) fall into groups of equal size, each with its own columns.
    """

    axis: int
    by: int
    labels: Array


class Labeller(Protocol):
    """What a coupling rule may ask and state. `None` stands for the labels of an axis that nothing may remove from."""

    grouped: str

    def blocks(self, value: Value) -> tuple[Block, ...]:
        """The label blocks of a value; axes in no block are fixed."""

    def axis(self, value: Value, axis: int, *, touched: bool = False) -> Array | None:
        """The labels of one axis.

        A joint block there is resolved first (see `resolve`), towards `axis` if `touched`.
        """

    def label_only(self, value: Value, axes: tuple[int, ...]) -> None:
        """Of a weight not asked about before, label only these axes; the others are never removed from."""

    def resolve(self, value: Value, axis: int | None = None) -> None:
        """Turn every joint block (or the one on `axis`) into labels of its preferred axis, tying the others."""

    def choose(self, origin: str, candidates: Sequence[Array]) -> int:
        """Which of several label arrays stays active where only one can: the first; the last, where an earlier walk
        found the first stuck.
        """

    def put(self, value: Value, labels: dict[int, Array | None]) -> None:
        """Give a value single-axis labels."""

    def put_blocks(self, value: Value, blocks: Sequence[Block]) -> None:
        """Give a value these blocks."""

    def put_columns(self, value: Value, columns: Columns) -> None:
        """Say that the columns of the weight `value` differ by row group."""

    def fresh(self, *shape: int) -> Array:
        """New labels, tied to nothing."""

    def equal(self, a: Array | None, b: Array | None) -> None:
        """Indices at the same place live or die together (numpy broadcasting); `None` freezes the other."""

    def freeze(self, labels: Array | None, why: str) -> None:
        """These indices must stay."""

    def balance(self, rows: Array) -> None:
        """Every row of the 2-d array must keep the same number of indices, at least one."""

    def statistic(self, labels: Array | None) -> None:
        """The operator takes a statistic over this axis: removal renormalises."""

    def at_least(self, labels: Array | None, count: int) -> None:
        """So many of these indices must stay, whichever they are."""

    def ordered(self, labels: Array | None) -> None:
        """What the operator makes depends on the order of these indices: they may go, but not trade places."""

    def point(self, value: Value, labels: Array | None) -> None:
        """The integers in `value` are positions along an axis with these labels; a constant is counted anew. They are
        `ordered`: positions may be sorted, and of equal numbers the first one is found.
        """

    def pointing(self, value: Value) -> Array | None:
        """The labels of the axis along which the integers in `value` are positions; None where that is not known.

        Asking says that the operator follows them. Where no rule asks and the operator does not merely move elements,
        the axis is frozen, since positions change when something before them goes.
        """

    def stands_alone(self, node: Node) -> bool:
        """Whether a node is one of the graph's own: neither a step of a fused operator nor in a body."""

    def vanish(self, node: Node, value: Value, label: int, *, strict: bool = False) -> None:
        """All of `value`, which the node makes, goes with this index. A node that reads it and cannot do without lets
        the index stay (at all, if `strict`; else the plan is made so).
        """

    def vanishing(self, node: Node, slot: int) -> int | None:
        """The one index that all of an operand goes with, where there is such and the node may do without."""

    def leave_out(self, node: Node, slot: int, label: int) -> None:
        """The node does without this operand where that index goes."""

    def apart(self, labels: Array) -> None:
        """An axis is taken apart index by index: where one of them must stay, all must."""


class Kept(Protocol):
    """What survives, as asked by a rewrite rule."""

    def indices(self, value: Value, axis: int) -> Array | None:
        """Kept indices of a single-axis block, ascending; None if all stay."""

    def size(self, value: Value, axis: int) -> int:
        """The size of an axis afterwards."""

    def shape(self, value: Value) -> tuple[int, ...]:
        """The sizes of all axes afterwards."""

    def stored(self, array: Array, value: Value, axes: tuple[int, ...]) -> Array:
        """What is kept of an array laid out over `axes` of a value, in the form in which the value is stored."""

    def alone(self, value: Value, axis: int) -> bool:
        """Whether an axis is labeled on its own."""

    def gone(self, value: Value) -> bool:
        """Whether all of a value has vanished."""

    def reorder(self, source: Value, target: Value) -> list[tuple[int, Array]]:
        """Gathers that must follow a reshape because kept elements come out in another order."""


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates as `factor` times the product of the sizes of `axes` (value, axis), divided by `groups`.

    Where whole groups of a grouped convolution go, `groups` shrinks with the last of `axes`.
    """

    factor: float
    axes: tuple[tuple[Value, int], ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class Statistic:
    """The node takes statistics over `axes` of input 0; `params` maps inputs to (their axis, the data axis).

    `positions` are the outputs that hold positions along the (one) axis: the verifier maps them back.
    `whole` says that the operands cannot be told apart like this: all of them are to be run on their kept indices.
    """

    axes: tuple[int, ...]
    params: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    groups: int | None = None
    positions: tuple[int, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Contraction:
    """Operand `weight` of the node, read as matrices: sums run over its `axis`, along `rows` lie output channels.

    Sums run over the `kernel` positions, too; any other axes are a batch of matrices. `data` is the operand that it
    meets (None where that is no operand, as a recurrent state), `along` that operand's axis, which `groups` share out.
    `each` pairs axes of the batch with axes of the data, where each matrix meets data of its own.
    """

    weight: int
    axis: int
    rows: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    data: int | None = None
    along: int = 0
    groups: int = 1
    each: tuple[tuple[int, int], ...] = ()


CoupleRule = Callable[[Node, Labeller], None]
RewriteRule = Callable[[Node, Kept], None]
CostRule = Callable[[Node], list[Cost]]
StatisticRule = Callable[[Node], Statistic | None]
ContractionRule = Callable[[Node], list[Contraction]]
#: What becomes of a node where a whole operand vanishes: there is no "result", or the "operand" is left out.
Absence = Literal["result", "operand"]
AbsentRule = Callable[[Node, int], Absence | None]


@dataclass(frozen=True)
class Operator:
    """One entry of the table.

    `rewrite` and `cost` see the node of the graph being rewritten or measured; `statistic` tells the verifier which
    axes must be compacted rather than masked. `recurs` says that the node feeds its result back to itself, so that the
    verifier must mask its weights too. `bears` says that the operator's weights make or take channels: a group is named
    after, and its width counted on, such a weight rather than a bias or a table that is merely added.
    `enter` speaks before the bodies of a control flow node are walked, `couple` after them. `moves` says that every
    element of the outputs is one of input 0, so that positions stay positions. `contracts` lists the operands that are
    summed over, for passes that make weights sparse along that axis. `absent` says what becomes of the node where all
    of one operand vanishes (see `Labeller.vanish`); None, where it cannot do without.
    """

    kind: str
    couple: CoupleRule
    rewrite: RewriteRule | None = None
    cost: CostRule | None = None
    statistic: StatisticRule | None = None
    recurs: bool = False
    bears: bool = False
    enter: CoupleRule | None = None
    moves: bool = False
    contracts: ContractionRule | None = None
    absent: AbsentRule | None = None

    def absence(self, node: Node, slot: int) -> Absence | None:
        """What becomes of a node without the operand in this slot; what only moves elements has none to move."""
        if self.absent is not None:
            return self.absent(node, slot)
        return "result" if self.moves and slot == 0 else None


_TABLE: dict[str, Operator] = {}


def operator(
    kind: str,
    *,
    rewrite: RewriteRule | None = None,
    cost: CostRule | None = None,
    statistic: StatisticRule | None = None,
    recurs: bool = False,
    bears: bool = False,
    enter: CoupleRule | None = None,
    moves: bool = False,
    contracts: ContractionRule | None = None,
    absent: AbsentRule | None = None,
) -> Callable[[CoupleRule], CoupleRule]:
    """Register the decorated coupling rule, with its companions, as the entry of `kind`."""

    def register(couple: CoupleRule) -> CoupleRule:
        if kind in _TABLE:
            raise GraphPruneError(f"the operator table has two entries for '{kind}'")
        _TABLE[kind] = Operator(kind, couple, rewrite, cost, statistic, recurs, bears, enter, moves, contracts, absent)
        return couple

    return register


def lookup(kind: str) -> Operator:
    """The entry of a kind; a kind without one is treated as unknown."""
    return _TABLE.get(kind) or _TABLE["unknown"]


def kinds() -> list[str]:
    """All kinds in the table."""
    return sorted(_TABLE)


def known(kind: str) -> bool:
    """Whether the table has rules for this kind."""
    return kind in _TABLE and kind != "unknown"
