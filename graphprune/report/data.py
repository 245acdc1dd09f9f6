"""The data of a report. Filled from plain numbers and strings, so that it can be saved, compared and tested."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.atomic import whole

from .printing import Printed

if TYPE_CHECKING:
    from rich.console import Console

    from graphprune.verification.proof import Proof

    from ..passes.base import Remark
    from ..sparsity.permuting import Gain


@dataclass(frozen=True)
class GroupRow:
    """One coupled group: `size` components that are kept or removed one by one, each whole.

    `role` says what a component is ("channels", "heads", ...; see `coupling/roles.py`), `width` how many indices one
    spans on its widest axis, `parameters` how many weights the group covers. `members` name the axes it touches, first
    use first; `reason` says why those components were kept, or why the group was left alone. `kept` equals `size` where
    nothing was removed.
    """

    name: str
    size: int
    kept: int
    exact: bool
    members: list[str] = field(default_factory=list)
    reason: str = ""
    role: str = "channels"
    width: int = 1
    parameters: int = 0


@dataclass(frozen=True)
class FrozenRow:
    """`indices` indices of one axis of a weight that must stay, and why.

    `node`, an `op` of the module `scope`, is where they meet the reason; `cause` says what kind of reason it is
    ("unknown" operator, unknown "sizes", "operator", "constant", "lookup", "position", "input", "output").
    """

    weight: str
    axis: int
    indices: int
    node: str
    reason: str
    cause: str = "operator"
    op: str = ""
    scope: str = ""


@dataclass(frozen=True)
class UnknownRow:
    """An operator without a rule, or (`why`) with one that fails here: how often it occurs, and the first node. `sizes`
    says that it has a rule and lacks only sizes.
    """

    op: str
    count: int
    first_node: str
    why: str = ""
    sizes: bool = False


@dataclass(frozen=True)
class Measure:
    """The size and cost of a model; latency (seconds, median) only where it was timed."""

    parameters: int
    macs: int
    bytes: int
    latency_s: float | None = None


@dataclass(frozen=True)
class PassRow:
    """One pass of a pipeline: its time in seconds, whether it changed the graph (None: it does not say), and what it
    tells of single nodes and weights: what `cast-precision` left in float32, say.
    """

    name: str
    seconds: float
    changed: bool | None = None
    remarks: list[Remark] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class PassesReport(Printed):
    """What a pipeline did to a model."""

    model: str
    passes: list[PassRow]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-ready data."""
        return {"format": "graphprune-passes/1", **_fields(self)}

    def render(self, console: Console, *, every: bool = False) -> None:
        """Print the table; remarks of one text as one, or `every` one."""
        from .render import render_passes

        render_passes(self.passes, console, every=every)


@dataclass(frozen=True, repr=False)
class InspectReport(Printed):
    """What can be pruned in a model, and what cannot and why.

    `renamed` gives the names in the file of weights that the report calls by another name, since an exporter made up
    theirs. `assumed` are the sizes that nobody gave, by input and axis; `notes` sentences worth the user's attention.
    """

    model: str
    nodes: int
    parameters: int
    macs: int
    groups: list[GroupRow]
    frozen: list[FrozenRow]
    unknown: list[UnknownRow]
    prunable_parameters: int | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-ready data."""
        return {"format": "graphprune-inspect/1", **_fields(self)}

    def render(self, console: Console, *, every: bool = False) -> None:
        """Print the tables; `every` row of them, or what is alike as one."""
        from .render import render_inspect

        render_inspect(self, console, every=every)


@dataclass(frozen=True)
class BlockRow:
    """One removable block: `kind` is "block" or "branch"; those of one number in `structure` are built alike.

    `parameters` are those that only it reads. `score` is relative to the mean over its structure; the smallest go
    first. `outer` says that other blocks lie within it, so that it goes only by name.
    """

    name: str
    kind: str
    structure: int
    nodes: int
    parameters: int
    macs: int
    score: float
    weights: list[str] = field(default_factory=list)
    source: str = ""
    target: str = ""
    outer: bool = False


@dataclass(frozen=True, repr=False)
class BlocksReport(Printed):
    """What `remove-blocks` may take out of a model."""

    model: str
    parameters: int
    macs: int
    blocks: list[BlockRow]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-ready data."""
        return {"format": "graphprune-blocks/1", **_fields(self)}

    def render(self, console: Console, *, every: bool = True) -> None:
        """Print the table, which always shows every block."""
        from .render import render_blocks

        render_blocks(self, console)


@dataclass(frozen=True, repr=False)
class Report(Printed):
    """What one pruning did.

    `output_form` says what came out ("own class", "fx GraphModule", "ONNX") and `output_reason` why. `seconds` holds
    the time of each stage by name; `notes` are sentences worth the user's attention, `alerts` those that must not be
    missed, printed first. `kept_ids` says for an input whose vocabulary lost rows which ids stayed: new id `i` is old
    id `kept_ids[input][i]`. `assumed` are the sizes that nobody gave, by input and axis.
    """

    model: str
    target: str
    criterion: str
    before: Measure
    after: Measure
    groups: list[GroupRow]
    frozen: list[FrozenRow] = field(default_factory=list)
    unknown: list[UnknownRow] = field(default_factory=list)
    proof: Proof | None = None
    output_form: str = ""
    output_reason: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    kept_ids: dict[str, list[int]] = field(default_factory=dict)
    assumed: dict[str, dict[str, int]] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-ready data."""
        return {"format": "graphprune-report/1", **_fields(self)}

    def render(self, console: Console) -> None:
        """Print the table and the summary."""
        from .render import render_report

        render_report(self, console)


@dataclass(frozen=True)
class SparseRow:
    """One weight: what reads it, its shape, the share that is zero now, and the share of its magnitude that is left.

    `macs` are those of the operators that read it. Where `reason` is given the weight was left as it is. With
    calibration data, `error` is the share of its (squared) output that is lost there, and `note` says what it
    was judged by if not by the method asked for.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    sparsity: float = 0.0
    magnitude: float = 1.0
    reason: str = ""
    note: str = ""
    error: float | None = None


@dataclass(frozen=True, repr=False)
class SparseReport(Printed):
    """What making a model sparse did; `macs` are those of the whole model.

    `reordered` are the sets of channels that traded places, with the share of the magnitude of the weights that
    contract them that the pattern keeps before and after, and that the best entries anywhere would keep (`free`);
    `reordered_by` says what is meant by magnitude there.
    """

    model: str
    pattern: str
    method: str
    parameters: int
    macs: int
    rows: list[SparseRow]
    reordered: list[Gain] = field(default_factory=list)
    reordered_by: str = "magnitude"
    proof: Proof | None = None
    output_form: str = ""
    output_reason: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON-ready data."""
        return {"format": "graphprune-sparsity/1", **_fields(self)}

    def render(self, console: Console, *, every: bool = False) -> None:
        """Print the table and the summary."""
        from .sparsity import render_sparse

        render_sparse(self, console, every=every)


def jsonable(item: Any) -> Any:
    """Dataclasses, mappings, sequences and numpy scalars as plain JSON data; NaN and infinity become null."""
    if is_dataclass(item) and not isinstance(item, type):
        return _fields(item)
    if isinstance(item, Mapping):
        return {str(key): jsonable(value) for key, value in item.items()}
    if isinstance(item, list | tuple | set | frozenset):
        return [jsonable(value) for value in item]
    if isinstance(item, np.ndarray | np.generic):
        return jsonable(item.tolist())
    if isinstance(item, float) and not math.isfinite(item):
        return None
    return item


def _fields(item: Any) -> dict[str, Any]:
    return {f.name: jsonable(getattr(item, f.name)) for f in fields(item)}


def write_json(data: Any, path: str | Path) -> None:
    """Write a report, whole or not at all; raises InputError where it cannot be written."""
    text = json.dumps(jsonable(data), indent=2) + "\n"
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")
