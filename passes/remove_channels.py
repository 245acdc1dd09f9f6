"""The pass that removes what a plan does not keep: weights are sliced once, sizes in the graph follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from graphprune.coupling import Coupling, Use, couple, requested
from graphprune.coupling.slicing import Survivors, kept_rows
from graphprune.errors import GraphPruneError, InputError, PassError
from graphprune.ir.graph import Graph, Value, uncollected
from graphprune.ops.base import Array
from graphprune.pruning.budgets.allocation import FLOOR, Options, make_plan
from graphprune.pruning.budgets.targets import KINDS, Target, Targets
from graphprune.pruning.criteria import magnitude
from graphprune.pruning.plan import Plan

from .base import Pass, register
from .support.removing import leave_out


class Slicer(Protocol):
    """What each use of a weight is left with."""

    def key(self, use: Use) -> tuple[bytes, ...]:
        """Equal for uses that need the same slice of the same weight; empty where it stays as it is."""

    def weight_shape(self, use: Use, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes that `slice_weight` gives."""

    def slice_weight(self, use: Use, array: Array) -> Array:
        """The slice; `array` may have size 1 where it does not vary."""


@uncollected()
def remove_channels(coupling: Coupling, keep: Array) -> Graph:
    """A new graph with only the kept components; the coupling's graph is untouched.

    `keep` is a bool mask over components. Raises PassError naming the node whose sizes cannot follow.
    """
    survivors = Survivors(coupling, keep)
    graph = coupling.graph.copy()
    _rewrite_nodes(coupling, graph, survivors)
    slice_weights(coupling, graph, survivors)
    _resize(coupling.graph, graph, survivors)
    leave_out(coupling, graph, survivors)
    for table, ids in kept_rows(coupling, keep):
        for value in table.inputs:
            before = graph.kept_rows.get(value.name)
            graph.kept_rows[value.name] = ids if before is None else before[ids]
    return graph


def _rewrite_nodes(coupling: Coupling, after: Graph, survivors: Survivors) -> None:
    """Rules read sizes of the original values and change attributes of the new nodes."""
    for old, new in zip(coupling.graph.all_nodes, after.all_nodes, strict=True):
        rule = coupling.rule(old).rewrite
        if rule is None or any(v is None or v.shape is None for v in old.outputs):
            continue
        if all(survivors.gone(v) for v in old.outputs):
            continue
        inputs, outputs = new.inputs, new.outputs
        new.inputs, new.outputs = old.inputs, old.outputs
        try:
            rule(new, survivors)
        except MemoryError:
            raise
        except Exception as error:
            kind = "" if isinstance(error, GraphPruneError) else f"{type(error).__name__}: "
            raise PassError(f"remove-channels cannot rewrite node '{old.name}' ({old.op}): {kind}{error}") from error
        finally:
            new.inputs, new.outputs = inputs, outputs


def slice_weights(coupling: Coupling, graph: Graph, survivors: Slicer) -> None:
    """Give a copy of the coupling's graph the weights that `survivors` leaves.

    One tensor where the uses of a weight agree; a copy for each further slice where they do not.
    """
    nodes = dict(zip(coupling.graph.all_nodes, graph.all_nodes, strict=True))
    made: dict[Value, dict[tuple[bytes, ...], Value]] = {}
    names = {v.name for v in graph.values()}
    for use in coupling.uses:
        versions = made.setdefault(use.value, {})
        key = survivors.key(use)
        node = nodes[use.node]
        if key not in versions:
            current = node.inputs[use.slot]
            assert current is not None
            versions[key] = _sliced(use, current, survivors, key, first=not versions, names=names)
        node.inputs[use.slot] = versions[key]


def _sliced(
    use: Use, current: Value, survivors: Slicer, key: tuple[bytes, ...], *, first: bool, names: set[str]
) -> Value:
    weight = use.value.weight
    assert weight is not None
    name = use.value.name
    if not first:
        name = next(n for n in (f"{name}.{i}" for i in range(2, 1 << 20)) if n not in names)
        names.add(name)
    if not key:
        return current if first else Value(name, current.shape, current.dtype, current.dynamic, weight)
    shape = survivors.weight_shape(use, weight.shape)
    alone = use.columns is None and use.positions is None
    sliced = weight.sliced(lambda array: survivors.slice_weight(use, array), shape, alone=alone)
    return Value(name, sliced.shape, current.dtype, current.dynamic, sliced)


def _resize(before: Graph, after: Graph, survivors: Survivors) -> None:
    for was, now in zip(before.inputs, after.inputs, strict=True):
        if was.follows:
            now.shape = survivors.shape(was)
    for old, new in zip(before.all_nodes, after.all_nodes, strict=True):
        _resize_values(old.outputs, new.outputs, survivors)
        for body, copy in zip(old.bodies, new.bodies, strict=True):
            _resize_values(body.inputs, copy.inputs, survivors)


def _resize_values(before: list[Value], after: list[Value], survivors: Survivors) -> None:
    for was, now in zip(before, after, strict=True):
        if was.shape is not None:
            now.shape = survivors.shape(was)


@register
@dataclass(frozen=True)
class RemoveChannels(Pass):
    """Couple, score, choose by a budget and remove: channels, heads and neurons that matter least, with all that
    hangs on them. The budget is at least one of `channels` (the part of every group that stays), `params` and `macs`
    (the part of the total that stays), of several all; the other options are those of `graphprune prune`.
    """

    name: ClassVar[str] = "remove-channels"

    channels: float | None = None
    params: float | None = None
    macs: float | None = None
    criterion: str = "l2"
    align: int | None = None
    floor: float = FLOOR
    uniform: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    grouped: str = "within"
    reduction: str = "sum"
    normalization: str = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        self.targets()

    def targets(self) -> Targets:
        """The budget; raises InputError where there is none."""
        given = [Target(kind, ratio) for kind in KINDS if (ratio := getattr(self, kind)) is not None]
        if not given:
            raise InputError(f"pass '{self.name}' needs at least one of {', '.join(KINDS)}")
        return Targets.of(given)

    def plan(self, graph: Graph) -> tuple[Coupling, Plan]:
        """What the pass removes from a graph; the same each time."""
        coupling = couple(graph, grouped=self.grouped, rows=requested(graph, self.include))
        how = {"reduction": self.reduction, "normalization": self.normalization}
        scores = magnitude.score(coupling, self.criterion, seed=self.seed, **how)
        options = Options(self.include, self.exclude, {}, self.align, self.floor, self.uniform, self.roles or None)
        return coupling, make_plan(coupling, scores, self.targets(), options, self.criterion)

    def run(self, graph: Graph) -> Graph:
        """Remove them."""
        coupling, plan = self.plan(graph)
        keep = plan.kept(coupling)
        return graph if keep.all() else remove_channels(coupling, keep)
